"""Checks how fast and how exactly this processor computes int8 models."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from agent.commands.doctor.check_result import CheckResult, ok, warn

# /proc/cpuinfo's flags (x86) and Features (ARM) of the instructions that multiply int8 without saturating in 16 bits
_DOT_PRODUCTS: Final = {"avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "asimddp": "NEON dot product"}


def run_check() -> CheckResult:
    """Check this machine's processor."""
    return check_processor(_read_cpuinfo(), platform.machine())


def has_dot_product(cpuinfo: str) -> bool:
    """Whether int8 weights of full range are exact on this processor."""
    return any(flag in _flags(cpuinfo) for flag in _DOT_PRODUCTS)


def check_processor(cpuinfo: str, machine: str) -> CheckResult:
    """Return what the processor of `cpuinfo`, the text of /proc/cpuinfo, means for int8 models."""
    flags = _flags(cpuinfo)
    names = [name for flag, name in _DOT_PRODUCTS.items() if flag in flags]
    if names:
        return ok("processor", f"{machine}, {', '.join(names)}: int8 at full speed; releases for any --target-cpu run")
    if "avx2" in flags:
        return ok(
            "processor",
            f"{machine}, AVX2 without VNNI: int8 is about 1.6 times as fast as float (2.7 with VNNI); train with "
            "--target-cpu any, the default, or avx2",
        )
    return warn(
        "processor",
        f"{machine}, neither AVX2 nor int8 dot products",
        "int8 models are slow here: measure with kensa bench before trusting the frame rate",
    )


def _flags(cpuinfo: str) -> frozenset[str]:
    """Return the instructions that every core lists."""
    cores = [
        frozenset(line.partition(":")[2].split())
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].strip() in {"flags", "Features"}
    ]
    return frozenset.intersection(*cores) if cores else frozenset()


def own_processor_has_dot_product() -> bool:
    """`has_dot_product` of this machine."""
    return has_dot_product(_read_cpuinfo())


def _read_cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
