"""The doctor checks processor, file system, disk space and the port of the metrics."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from agent.commands.doctor.check_result import CheckStatus
from agent.commands.doctor.checks.machine import processor
from agent.commands.doctor.checks.storage import file_system
from tests.kits.doctor_site import findings, healthy_site


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Any]:
    return healthy_site(tmp_path)


@pytest.mark.parametrize(
    ("cpuinfo", "status", "says"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni\n" * 2, CheckStatus.OK, "AVX512-VNNI: int8 at full speed"),
        ("flags\t\t: fpu avx2 avx_vnni\n", CheckStatus.OK, "AVX-VNNI"),
        ("Features\t: fp asimd asimddp\n", CheckStatus.OK, "NEON dot product"),
        ("flags\t\t: fpu avx2\n", CheckStatus.OK, "train with --target-cpu any, the default, or avx2"),
        ("flags\t\t: fpu sse4_2\n", CheckStatus.WARN, "neither AVX2 nor int8 dot products"),
        ("Features\t: asimddp\n\nFeatures\t: asimd\n", CheckStatus.WARN, "neither"),  # big.LITTLE: one core lacks it
        ("", CheckStatus.WARN, "neither"),
    ],
)
def test_the_processor_is_told_in_terms_of_int8(cpuinfo: str, status: CheckStatus, says: str) -> None:
    finding = processor.check_processor(cpuinfo, "arch")

    assert finding.status is status
    assert says in finding.seen


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/var/lib", "xfs"), ("/var/library", "ext4"), ("/mnt/with blank/x", "nfs4"), ("/run/x", "tmpfs")],
)
def test_the_file_system_is_the_innermost_mount(path: str, kind: str) -> None:
    mountinfo = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 8:2 / /var/lib rw shared:2 - xfs /dev/sda2 rw
24 22 0:5 / /run rw - tmpfs tmpfs rw
25 22 0:6 / /mnt/with\\040blank rw - nfs4 server:/x rw
nonsense
"""

    assert file_system.file_system_type(mountinfo, Path(path)) == kind


def test_a_directory_that_cannot_be_made_is_a_failure(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")
    found = findings(tmp_path, {**site, "state_dir": str(tmp_path / "file" / "state")})

    if os.geteuid() != 0:  # root may write everywhere, but not below a file
        assert found["state_dir"].status is CheckStatus.FAIL
    assert found["state_dir"].check == "state_dir"


def test_a_state_dir_that_is_a_file_is_a_failure_with_a_remedy(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")

    found = findings(tmp_path, {**site, "state_dir": str(tmp_path / "file")})

    assert found["state_dir"].status is CheckStatus.FAIL
    assert "write access" in str(found["state_dir"].remedy)


def test_caps_that_the_disk_cannot_hold_are_told(tmp_path: Path, site: dict[str, Any]) -> None:
    free = shutil.disk_usage(tmp_path).free
    enough = findings(tmp_path, {**site, "keep": {"frames": 0}, "outbox": {"max_bytes": 2**20, "history_bytes": 2**20}})
    warned = findings(tmp_path, {**site, "outbox": {"max_bytes": min(2**40, 2 * free)}})
    failed = findings(tmp_path, {**site, "outbox": {"max_bytes": min(2**40, 20 * free)}})

    assert enough["disk"].status is CheckStatus.OK
    assert warned["disk"].status is CheckStatus.WARN
    assert failed["disk"].status is CheckStatus.FAIL or free > 2**40 / 10


def test_a_metrics_port_in_use_is_a_failure(tmp_path: Path, site: dict[str, Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        found = findings(tmp_path, {**site, "metrics": {"port": taken.getsockname()[1]}})

    assert found["metrics"].status is CheckStatus.FAIL
    assert findings(tmp_path, {**site, "metrics": {"port": 0}})["metrics"].status is CheckStatus.OK


def test_nothing_is_left_behind_and_nothing_is_made(tmp_path: Path, site: dict[str, Any]) -> None:
    findings(tmp_path, site)
    assert not (tmp_path / "state").exists()
    (tmp_path / "state").mkdir()

    findings(tmp_path, site)

    assert list((tmp_path / "state").iterdir()) == []
