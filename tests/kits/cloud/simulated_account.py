"""Fixtures for a simulated AWS account that is empty for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simulator.aws.local_aws import LocalAws

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")  # an imported fixture is each module's own, and a process can have one LocalAws
def aws_server() -> Iterator[LocalAws]:
    """Start it: the first time takes 1 to 2 s."""
    with LocalAws() as server:
        yield server


@pytest.fixture
def aws(aws_server: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAws]:
    """An empty cloud, which boto3 finds through the environment."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in aws_server.environment().items():
        monkeypatch.setenv(name, value)
    aws_server.reset()
    yield aws_server
    aws_server.reset()
