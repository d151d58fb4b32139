"""`kensa bench` starts with the packages that scripts/bench installs, and no others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from simulator.bench.bench_options import BENCHMARKS
from tests.kits.requirements import ROOT

# Imported names that a fresh clone lacks: scripts/bench installs device, sim and pipeline.
ABSENT = ("awscrt", "awsiot", "boto3", "botocore", "duckdb", "hypothesis", "moto", "pytest", "sqlglot", "torch")
BESIDES = {
    "greengrass": {"awscrt", "awsiot", "boto3", "botocore"},
    "analytics": {"boto3", "botocore", "duckdb", "sqlglot"},
}
MAIN = "from agent.cli import main; sys.exit(main())"


def run(code: str, *arguments: str, absent: tuple[str, ...] = ABSENT) -> subprocess.CompletedProcess[str]:
    hidden = f"import sys; sys.modules.update(dict.fromkeys({absent!r}));"
    return subprocess.run(
        [sys.executable, "-c", f"{hidden} {code}", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_the_help_needs_no_package_of_a_single_benchmark() -> None:
    done = run(MAIN, "bench", "--help")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in BENCHMARKS)


@pytest.mark.parametrize("bench", BENCHMARKS)
def test_each_benchmark_is_imported_with_what_scripts_bench_installs_for_it(bench: str) -> None:
    absent = tuple(name for name in ABSENT if name not in BESIDES.get(bench, ()))
    done = run(f"import {BENCHMARKS[bench]}", absent=absent)
    assert done.returncode == 0, done.stderr


def test_a_benchmark_without_its_packages_names_the_command_that_brings_them() -> None:
    done = run(MAIN, "bench", "greengrass")
    assert done.returncode == 2
    assert "scripts/bench greengrass" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    done = run(MAIN, "bench", "faults", "--only", "help")
    assert done.returncode != 0
    assert "power_cuts" in done.stderr
