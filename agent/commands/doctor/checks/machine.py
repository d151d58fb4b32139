"""The machine: Python, libraries, processor, clock."""

from __future__ import annotations

import ctypes
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import agent
from agent.commands.doctor.check_result import CheckResult, fail, ok, warn

if TYPE_CHECKING:
    from collections.abc import Iterator

_OLDEST_PYTHON: Final = (3, 11)
_NEWEST_PYTHON: Final = (3, 13)
_LIBRARIES: Final = ("numpy", "onnxruntime", "opencv-python-headless", "paho-mqtt", "pydantic")
_OLDEST_PLAUSIBLE_TIME: Final = datetime(2025, 1, 1, tzinfo=UTC)  # no device that runs this code can be earlier
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES: Final = 512  # more than struct timex has on any architecture
# /proc/cpuinfo's flags (x86) and Features (ARM) of the instructions that multiply int8 without saturating in 16 bits
_DOT_PRODUCTS: Final = {"avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "asimddp": "NEON dot product"}


def run_checks() -> Iterator[CheckResult]:
    """Everything that needs no configuration."""
    yield _python()
    yield _libraries()
    yield processor(_read(Path("/proc/cpuinfo")), platform.machine())
    yield _clock()


def _python() -> CheckResult:
    seen = f"{platform.python_version()}, kensa {agent.__version__}"
    if not _OLDEST_PYTHON <= sys.version_info[:2] <= _NEWEST_PYTHON:
        return warn("python", seen, "Kensa is tested on Python 3.11 to 3.13: use one of them")
    return ok("python", seen)


def _libraries() -> CheckResult:
    found, missing = [], []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return fail("libraries", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return ok("libraries", ", ".join(found))


def has_dot_product(cpuinfo: str) -> bool:
    """Whether int8 weights of full range are exact on this processor."""
    return any(flag in _flags(cpuinfo) for flag in _DOT_PRODUCTS)


def processor(cpuinfo: str, machine: str) -> CheckResult:
    """Read the text of /proc/cpuinfo: what the processor means for int8 models."""
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
    """Instructions that every core lists."""
    cores = [
        frozenset(line.partition(":")[2].split())
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].strip() in {"flags", "Features"}
    ]
    return frozenset.intersection(*cores) if cores else frozenset()


def own_processor_has_dot_product() -> bool:
    """`has_dot_product` of this machine."""
    return has_dot_product(_read(Path("/proc/cpuinfo")))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _clock() -> CheckResult:
    now = datetime.now(UTC)
    seen = now.strftime("%Y-%m-%d %H:%M:%S UTC")
    if now < _OLDEST_PLAUSIBLE_TIME:
        return fail("clock", f"{seen}, before this program was written", "set the clock: TLS and verdicts need it")
    if _unsynchronised():
        return warn(
            "clock",
            f"{seen}, not synchronised",
            "run chrony or systemd-timesyncd, or capture times drift away from those of other machines",
        )
    return ok("clock", seen)


def _unsynchronised() -> bool:
    """Ask the kernel (adjtimex(2), reading only); where it does not tell, the clock counts as good."""
    try:
        state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return False
    return state == _TIME_ERROR
