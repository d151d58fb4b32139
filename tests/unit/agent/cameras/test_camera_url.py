"""Camera addresses: shown without their secrets, and resolved to where to connect and as whom."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cameras.camera_auth import CameraCredentials
from agent.cameras.camera_url import CameraAddress, has_secret, is_connectable, missing_variables, redact
from agent.errors import CameraError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://op:s3cret@10.0.0.7:554/ch1?token=s3cret#s3cret", "rtsp://10.0.0.7:554"),
        ("http://camera/stream", "http://camera"),
        ("https://op:s3%40cret@[fe80::1]/v", "https://[fe80::1]"),
        ("rtsp://10.0.0.7/user=admin_password=s3cret_channel=1_stream=0.sdp", "rtsp://10.0.0.7"),
        ("http://op:s3@cret@camera:8080/x", "http://camera:8080"),
        ("http://op:s3/cret@camera/x", "<unreadable address>"),
        ("http://op:s3/cret@10.0.0.7:80/x", "http://10.0.0.7"),
        ("http://op:53/cret@camera/x", "http://***"),
        ("http://10.0.0.7:80/cgi?user=me@plant.org", "http://10.0.0.7"),
        ("http://${HOST}:${PORT}/x?k=${KEY}", "http://${HOST}:${PORT}"),
        ("${CAMERA_URL}", "${CAMERA_URL}"),
        ("http://op:s3cret@camera:port/x", "<unreadable address>"),
        ("op:s3cret@camera", "<unreadable address>"),
        ("", "<unreadable address>"),
    ],
)
def test_an_address_is_shown_as_scheme_and_host(url: str, shown: str) -> None:
    assert redact(url) == shown


# Random, so that no host, word or number of the template contains it by chance.
SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20).map(
    lambda text: f"Zq7{text}vX9"
)
HOSTS = st.sampled_from(["camera", "10.0.0.7", "cam-1.plant.local", "[fe80::1]", "127.0.0.1"])
PORTS = st.sampled_from(["", ":80", ":8554", ":65535"])
PLACES = st.sampled_from(
    [
        "{scheme}://{user}:{secret}@{host}{port}/stream",
        "{scheme}://{secret}@{host}{port}/stream",
        "{scheme}://{secret}:{secret}@{host}{port}",
        "{scheme}://{user}:{number}/{secret}@{host}{port}/stream",
        "{scheme}://{host}{port}/user=admin_password={secret}_channel=1",
        "{scheme}://{host}{port}/{secret}",
        "{scheme}://{host}{port}/x?password={secret}",
        "{scheme}://{host}{port}?{secret}",
        "{scheme}://{host}{port}#{secret}",
        "{scheme}://{host}{port};{secret}",
        "{scheme}://{host}:{secret}/x",
        "{scheme}:/{user}:{secret}@{host}",
        "{user}:{secret}@{host}",
        "{secret}://{host}",
        "{scheme}://{host}{port}/a@b/{secret}@{secret}",
    ]
)


@st.composite
def addresses(draw: st.DrawFn) -> tuple[str, str]:
    """An address with a secret somewhere, and the secret."""
    secret = draw(SECRETS)
    url = draw(PLACES).format(
        scheme=draw(st.sampled_from(["http", "https", "rtsp", "rtsps"])),
        user=draw(st.sampled_from(["admin", "op", "", "a.b"])),
        host=draw(HOSTS),
        port=draw(PORTS),
        number=draw(st.integers(1, 65_535)),
        secret=secret,
    )
    return url, secret


def pieces(secret: str) -> set[str]:
    """The secret, and what a parser that stops at a special character makes of it."""
    return {piece for piece in re.split(r"[@:/?#%\\\s\[\]]", secret) if len(piece) >= 3} | {secret}


@given(addresses())
def test_a_secret_anywhere_but_in_the_host_is_never_shown(address: tuple[str, str]) -> None:
    url, secret = address
    shown = redact(url)
    assert not [piece for piece in pieces(secret) if piece in shown]
    assert not [piece for piece in pieces(secret) if piece in repr(CameraAddress(url=url))]


@given(addresses())
def test_neither_error_nor_traceback_nor_repr_shows_the_secret(address: tuple[str, str]) -> None:
    url, secret = address
    try:
        told = repr(CameraAddress(url=url).resolve({}))
    except CameraError as error:
        told = "".join(traceback.format_exception(error))
    # Where the address is read in another way than it was meant, a piece of it may be taken for the host.
    if secret not in told:
        return
    pytest.fail(f"{secret!r} is in {told!r}")


@given(SECRETS, st.sampled_from(["camera", "10.0.0.7", "[fe80::1]"]))
def test_any_password_can_be_written_escaped_and_most_as_they_are(secret: str, host: str) -> None:
    escaped = "".join(f"%{byte:02X}" for byte in secret.encode())
    target = CameraAddress(url=f"http://op:{escaped}@{host}:81/v?q=1").resolve({})
    assert (target.credentials, target.host, target.port, target.path) == (
        CameraCredentials("op", secret), host.strip("[]"), 81, "/v?q=1",
    )  # fmt: skip
    # Not where the beginning alone reads as an address: `op:Zq7@0/...` has the host 0, as RFC 3986 says.
    if "%" not in secret and not ("@" in secret and re.search(r"[/?#\\]", secret)):
        assert CameraAddress(url=f"http://op:{secret}@{host}:81/v?q=1").resolve({}).credentials == CameraCredentials(
            "op", secret
        )
    assert CameraAddress(url=target.url).resolve({}) == target


def test_variables_are_put_in_as_they_are_and_a_missing_one_is_named() -> None:
    address = CameraAddress(url="http://op:${CAM_PASS}@${CAM_HOST}:${CAM_PORT}/v?key=${CAM_KEY}")
    environ = {"CAM_PASS": "a/b@c:${X}%41", "CAM_HOST": "camera", "CAM_PORT": "8080", "CAM_KEY": "k"}
    target = address.resolve(environ)
    assert (target.credentials, target.host, target.port, target.path) == (
        CameraCredentials("op", "a/b@c:${X}%41"), "camera", 8080, "/v?key=k",
    )  # fmt: skip
    camera = {"CAMERA": "rtsp://a:b@c/d?${X}", "CAM_USER": "op"}
    assert CameraAddress(url="${CAMERA}").resolve(camera).url == "rtsp://a:b@c/d?${X}"
    assert CameraAddress(url="${CAMERA}", username="${CAM_USER}").resolve(camera).credentials == CameraCredentials(
        "op", ""
    )
    with pytest.raises(CameraError, match="environment variable CAM_HOST is not set"):
        address.resolve({**environ} | {"CAM_PASS": ""} if environ.pop("CAM_HOST") else {})
    for host in ("", "a b", "a\r\nX: y", "op:x@camera", "camera:80", "a\0b"):
        with pytest.raises(CameraError, match="host in its address"):
            address.resolve({"CAM_PASS": "", "CAM_PORT": "80", "CAM_KEY": "", "CAM_HOST": host})
    assert missing_variables(address.url, {"CAM_PASS": ""}) == ["CAM_HOST", "CAM_KEY", "CAM_PORT"]


def test_a_password_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    address = CameraAddress(url="http://camera/v", username="op", password_file=file)
    with pytest.raises(CameraError, match=r"password_file .* cannot be read"):
        address.resolve({})
    for password in ("first", " second with blanks "):
        file.write_text(f"{password}\n", encoding="utf-8")
        assert address.resolve({}).credentials == CameraCredentials("op", password)
    file.write_bytes(b"x" * 5_000)
    with pytest.raises(CameraError, match="holds no password"):
        address.resolve({})
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(CameraError, match="not text in UTF-8"):
        address.resolve({})


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("http://camera/v", False),
        ("http://op@camera/v", False),
        ("http://op:${P}@camera/v?k=${K}&l=${L}", False),
        ("http://camera/v?Zq7", True),
        ("http://camera/v?a=&Zq7", True),
        ("http://camera/v?k=${K}7", True),
        ("http://camera/v#7", True),
        ("http://op:${P}@camera/v", False),
        ("http://op:x@camera/v", True),
        ("rtsp://camera/user=a_password=b", True),
        ("rtsp://camera/v?channel=2", True),
    ],
)
def test_an_address_that_may_hold_a_secret_is_known(url: str, there: bool) -> None:  # noqa: FBT001 - a table's column
    assert is_connectable(url)
    assert has_secret(url) is there
