"""A running line resolves only the hosts of its configuration."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.bench.dns_lookups import BROKER, CAMERA, run_lookups
from simulator.doubles.network.dns_recorder import RecordingResolver, can_isolate, question_name, record_lookups
from tests.kits.requirements import ROOT, require

PACKAGES = ("agent", "greengrass", "pipeline", "simulator")
LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=63)


def require_namespaces() -> None:
    require(can_isolate(), "a network namespace", "run the tests as root, or let users make namespaces")


@pytest.mark.timeout(180)
def test_a_line_that_takes_a_release_and_uploads_frames_looks_up_only_what_is_configured() -> None:
    require_namespaces()
    result = run_lookups(20.0)
    assert result.others == {}
    assert {BROKER, CAMERA} <= result.configured.keys(), result.output[-2_000:]
    assert result.examined, result.output[-2_000:]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_switches_the_runtimes_telemetry_off_before_anything_can_import_it(package: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    program = f"import os, sys, {package}; print(os.environ.get('ORT_DISABLE_TELEMETRY'), 'onnxruntime' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=clean, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["1", "False"]


def test_a_name_that_any_program_asks_for_is_seen() -> None:
    require_namespaces()
    program = "import socket\ntry: socket.gethostbyname('telemetry.example')\nexcept OSError as error: print(error)"
    code, asked, output = record_lookups([sys.executable, "-c", program], timeout_s=60.0)
    assert code == 0
    assert asked["telemetry.example"] >= 1
    assert "not known" in output


@given(st.lists(LABEL, min_size=1, max_size=4), st.integers(0, 65_535))
def test_a_question_is_read_in_whatever_case_it_is_asked(labels: list[str], identity: int) -> None:
    name = ".".join(labels)
    query = identity.to_bytes(2, "big") + bytes.fromhex("01000001000000000000")
    query += b"".join(bytes([len(label)]) + label.upper().encode() for label in labels) + b"\0\0\1\0\1"
    assert question_name(query) == name


@given(st.binary(max_size=64))
def test_what_is_no_question_is_passed_over(junk: bytes) -> None:
    name = question_name(junk)
    assert name is None or isinstance(name, str)


def test_the_resolver_ends_with_its_block() -> None:
    with RecordingResolver(("127.0.0.1", 0)) as resolver:
        assert resolver.port > 0
