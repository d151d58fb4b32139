"""Online keys in KMS: the publisher holds none of them, and devices do not notice the difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.repository.release_cli import main
from simulator.kms import KmsServer
from tests.kits.cloud.tuf_repository import SITE, Device
from tests.kits.releases import write_release

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_release_signed_in_kms_is_fetched_and_a_rotation_leaves_kms_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, repository = tmp_path / "keys", tmp_path / "repository"
    release = write_release(tmp_path / "release")
    signers = [f"--signer={role}=awskms:alias/{role}" for role in ("targets", "snapshot", "timestamp", SITE)]
    device = Device(tmp_path / "device", keys / "1.root.json", str(repository))
    with KmsServer() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)

        assert main(["init", str(repository), "--keys", str(keys), "--site", SITE, *signers]) == 0
        assert main(["add", str(release), "--site", SITE, "--keys", str(keys)]) == 0
        assert main(["publish", "--keys", str(keys)]) == 0
        assert device.fetch().ref.counter == 1
        signed = server.calls.count("Sign")
        assert main(["rotate-keys", "timestamp", "snapshot", "--keys", str(keys)]) == 0
        assert server.calls.count("Sign") == signed

    assert sorted(path.parent.name for path in keys.rglob("*.pem")) == ["keys", "keys", "root", "root", "root"]
    assert device.fetch().ref.counter == 1
