"""Settings that the MQTT transport refuses before it connects: ids, topics, sizes, certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.adapters.mqtt import TlsFiles, check_message
from agent.adapters.mqtt.broker_tls import tls_context
from agent.errors import ConfigError, TransportError
from tests.kits.mqtt import Authority, transport_to

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("client_id", ["", "press 4", "$aws", "a" * 129, "thing\n"])
def test_a_client_id_that_iot_core_would_refuse_is_refused_at_once(client_id: str) -> None:
    with pytest.raises(ConfigError, match=r"transport\.client_id"):
        transport_to(1, client_id=client_id)


@pytest.mark.parametrize(
    "topic",
    ["", "$aws/things", "kensa/+/x", "kensa/#", "kensa/\0", "a" * 257, "ü" * 129, "a/b/c/d/e/f/g/h/i"],
)
def test_a_topic_beyond_the_limits_of_iot_core_is_refused(topic: str) -> None:
    with pytest.raises(TransportError, match="topic"):
        check_message(topic, b"x")


def test_topics_and_messages_at_the_limits_are_taken() -> None:
    check_message("a/b/c/d/e/f/g/h", b"x" * 131_072)
    check_message("a" * 256, b"")


def test_a_message_above_128_kib_is_refused() -> None:
    with pytest.raises(TransportError, match="131073 bytes, allowed are 131072"):
        check_message("kensa/thing-1/verdicts/cam-1", b"x" * 131_073)


@pytest.mark.parametrize("request_", ["get", "update"])
def test_a_thing_may_speak_to_its_own_shadow_within_8_kib(request_: str) -> None:
    topic = f"$aws/things/thing-1/shadow/name/kensa/{request_}"
    check_message(topic, b"x" * 8_192, thing="thing-1")
    with pytest.raises(TransportError, match="8193 bytes, allowed are 8192"):
        check_message(topic, b"x" * 8_193, thing="thing-1")


@pytest.mark.parametrize(
    ("topic", "thing"),
    [
        ("$aws/things/thing-1/shadow/name/kensa/get", None),
        ("$aws/things/thing-2/shadow/name/kensa/update", "thing-1"),
        ("$aws/things/thing-1/shadow/update", "thing-1"),
        ("$aws/things/thing-1/shadow/name/other/update", "thing-1"),
        ("$aws/things/thing-1/shadow/name/kensa/delete", "thing-1"),
        ("$aws/things/thing-1/shadow/name/kensa/update/accepted", "thing-1"),
        ("$aws/rules/x", "thing-1"),
    ],
)
def test_no_other_topic_of_aws_is_published_to(topic: str, thing: str | None) -> None:
    with pytest.raises(TransportError, match="may not use"):
        check_message(topic, b"x", thing=thing)


@pytest.mark.parametrize("topic", ["", "kensa/+", "#", "a\0"])
def test_only_plain_topics_are_subscribed_to(topic: str) -> None:
    with pytest.raises(TransportError, match="plain topics"):
        transport_to(1).subscribe(topic, lambda _topic, _payload: None)


@pytest.mark.parametrize("missing", ["ca", "certificate", "key"])
def test_a_missing_certificate_file_is_named(missing: str, tmp_path: Path) -> None:
    files = Authority.found(tmp_path).issue("thing-1")
    getattr(files, missing).unlink()
    with pytest.raises(ConfigError, match=rf"{getattr(files, missing).name}: No such file"):
        tls_context(files, port=8883)


@pytest.mark.parametrize("broken", ["ca", "certificate", "key"])
@pytest.mark.parametrize("content", [b"", b"\xff\xd8 not PEM at all", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_is_no_pem_is_named(broken: str, content: bytes, tmp_path: Path) -> None:
    files = Authority.found(tmp_path).issue("thing-1")
    getattr(files, broken).write_bytes(content)
    with pytest.raises(ConfigError, match=getattr(files, broken).name):
        tls_context(files, port=8883)


def test_a_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    authority = Authority.found(tmp_path)
    one, two = authority.issue("thing-1"), authority.issue("thing-2")
    with pytest.raises(ConfigError, match=r"thing-2\.key does not belong to .*thing-1\.pem"):
        tls_context(TlsFiles(ca=one.ca, certificate=one.certificate, key=two.key), port=8883)


def test_an_encrypted_key_is_refused_without_asking_for_its_passphrase(tmp_path: Path) -> None:
    authority = Authority.found(tmp_path)
    files = authority.issue("thing-1")
    authority._openssl("pkey", "-in", "thing-1.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key")
    with pytest.raises(ConfigError, match=r"locked\.key is encrypted"):
        tls_context(TlsFiles(ca=files.ca, certificate=files.certificate, key=tmp_path / "locked.key"), port=443)
