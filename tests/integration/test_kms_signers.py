"""Online keys in KMS: the publisher holds none of them, and devices do not notice the difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.repository.release_cli import main
from tests.kits.cloud.simulated_account import aws, aws_server
from tests.kits.cloud.tuf_repository import SITE, Device
from tests.kits.releases import write_release

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.aws.local_aws import LocalAws

__all__ = ("aws", "aws_server")
ROLES = ("targets", "snapshot", "timestamp", SITE)


def test_a_release_signed_in_kms_is_fetched_and_a_rotation_leaves_kms_for_a_file(aws: LocalAws, tmp_path: Path) -> None:
    kms = aws.client("kms")
    for role in ROLES:
        key = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName=f"alias/{role}", TargetKeyId=key)
    keys, repository = tmp_path / "keys", tmp_path / "repository"
    release = write_release(tmp_path / "release")
    signers = [f"--signer={role}=awskms:alias/{role}" for role in ROLES]
    device = Device(tmp_path / "device", keys / "1.root.json", str(repository))

    assert main(["init", str(repository), "--keys", str(keys), "--site", SITE, *signers]) == 0
    assert main(["add", str(release), "--site", SITE, "--keys", str(keys)]) == 0
    assert main(["publish", "--keys", str(keys)]) == 0
    assert device.fetch().ref.counter == 1
    aws.faults.fail("kms", "Sign", "KMSInternalException", "no signature during a rotation", times=100)
    assert main(["rotate-keys", "timestamp", "snapshot", "--keys", str(keys)]) == 0
    assert ("kms", "Sign") not in aws.faults.injected

    assert sorted(path.parent.name for path in keys.rglob("*.pem")) == ["keys", "keys", "root", "root", "root"]
    assert device.fetch().ref.counter == 1
