"""The doctor reads the validity of certificates."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from agent.commands.doctor.check_result import CheckStatus
from agent.commands.doctor.checks.line import certificates
from tests.kits.requirements import require

if TYPE_CHECKING:
    from pathlib import Path


def certificate(folder: Path, days: int) -> Path:
    require(shutil.which("openssl"), "openssl", "apt install openssl")
    path = folder / f"{days}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(folder / "key"), "-out", str(path), "-subj", "/CN=x", "-days", str(days)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


@pytest.mark.parametrize(("days", "status"), [(365, CheckStatus.OK), (10, CheckStatus.WARN), (20_000, CheckStatus.OK)])
def test_a_certificate_tells_until_when_it_is_good(tmp_path: Path, days: int, status: CheckStatus) -> None:
    path = certificate(tmp_path, days)

    finding = certificates.check_certificate("certificate", path)
    begins, ends = certificates.validity(path.read_text())

    assert finding.status is status
    assert ends - begins == timedelta(days=days)
    assert abs(begins - datetime.now(UTC)) < timedelta(minutes=5)


def test_an_expired_certificate_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    path = certificate(tmp_path, 1)
    for begins, ends, says in (
        (now - timedelta(days=9), now - timedelta(days=1), "expired on"),
        (now + timedelta(days=1), now + timedelta(days=9), "is valid from"),
    ):
        monkeypatch.setattr(certificates, "validity", lambda _, span=(begins, ends): span)
        finding = certificates.check_certificate("certificate", path)
        assert finding.status is CheckStatus.FAIL
        assert says in finding.seen


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_a_failure(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.pem"
    path.write_text(text)

    assert certificates.check_certificate("certificate", path).status is CheckStatus.FAIL
    assert certificates.check_certificate("certificate", tmp_path / "absent").status is CheckStatus.FAIL
