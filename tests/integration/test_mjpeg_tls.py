"""MJPEG over HTTPS: a camera that cannot prove who it is gets no request; the error says what to do."""

from __future__ import annotations

import ipaddress
import ssl
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.adapters.mjpeg import MjpegSource
from agent.errors import CameraError
from agent.timing.clock import SystemClock
from simulator.bench.inspection.mjpeg_readers import jpegs
from simulator.doubles.cameras.mjpeg_servers import SERVER_BEHAVIOURS, ServerBehaviour, serve_behaviour

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CLOCK = SystemClock()
Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def certificate(
    name: str, *, names: Sequence[x509.GeneralName] = (), signer: Pair | None = None, days: int = 2, is_ca: bool = False
) -> Pair:
    """Make a certificate; without a signer of its own making, as cameras do."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if signer is None else signer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key if signer is None else signer[1], hashes.SHA256()), key


def pem(folder: Path, *certificates: x509.Certificate) -> Path:
    path = folder / f"{certificates[0].serial_number:x}.pem"
    path.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates))
    return path


def context(folder: Path, pair: Pair) -> ssl.SSLContext:
    chain = folder / "chain.pem"
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    chain.write_bytes(
        pair[1].private_bytes(serialization.Encoding.PEM, *private) + pair[0].public_bytes(serialization.Encoding.PEM)
    )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(chain)
    return made


@contextmanager
def camera(folder: Path, pair: Pair) -> Iterator[tuple[str, list[bytes], list[bytes]]]:
    """Serve a stream over TLS; its address, what it sends, and the requests that it got."""
    requests: list[bytes] = []

    def answer(request: bytes, pictures: Sequence[bytes]) -> bytes:
        requests.append(request)
        return SERVER_BEHAVIOURS["Basic"].answer(request, pictures)

    sent = jpegs(2)
    with serve_behaviour(ServerBehaviour("", answer, user="op"), sent, tls=context(folder, pair)) as url:
        yield url, sent, requests


def pictures(url: str, ca: Path | None) -> list[bytes]:
    source = MjpegSource(url=url, clock=CLOCK, ca=ca)
    found: list[bytes] = []
    try:
        source.open()
        for _ in range(200):
            if len(found) == 2:
                return found
            if (picture := source.next_image(timeout_s=0.2)) is not None:
                found.append(bytes(picture.data))
    finally:
        source.close()
    pytest.fail("no pictures")


LOCAL = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


def test_the_cameras_own_certificate_is_enough_whatever_name_it_carries(tmp_path: Path) -> None:
    for names in ((), (x509.DNSName("IPCamera"),), LOCAL):
        own = certificate("IPCamera", names=names)
        with camera(tmp_path, own) as (url, sent, _):
            assert pictures(url, pem(tmp_path, own[0])) == sent


def test_a_certificate_that_an_authority_signed_is_checked_with_its_name(tmp_path: Path) -> None:
    authority = certificate("plant authority", is_ca=True)
    ca = pem(tmp_path, authority[0])
    with camera(tmp_path, certificate("cam", names=LOCAL, signer=authority)) as (url, sent, _):
        assert pictures(url, ca) == sent
    other = certificate("cam", names=[x509.DNSName("camera.plant")], signer=authority)
    with camera(tmp_path, other) as (url, sent, requests):
        with pytest.raises(CameraError, match=r"is for another name than 127\.0\.0\.1: use that name in the address"):
            pictures(url, ca)
        assert requests == []
        assert pictures(url, pem(tmp_path, other[0])) == sent


@pytest.mark.parametrize(
    ("days", "given", "said"),
    [
        (2, "none", "not signed by an authority that this device knows: save that of the camera"),
        (2, "another", "neither in .* nor signed by one there: give the one that the camera has now"),
        (-1, "own", "has expired: make a new one in the camera, and check this device's clock"),
        (2, "missing", r"ca .*gone\.pem cannot be read \(No such file"),
        (2, "no PEM", r"ca .*text\.pem holds no certificate in PEM"),
    ],
)
def test_a_camera_that_proves_nothing_gets_no_request(tmp_path: Path, days: int, given: str, said: str) -> None:
    own = certificate("IPCamera", names=LOCAL, days=days)
    (tmp_path / "text.pem").write_text("no certificate")
    ca = {
        "none": None,
        "another": pem(tmp_path, certificate("another")[0]),
        "own": pem(tmp_path, own[0]),
        "missing": tmp_path / "gone.pem",
        "no PEM": tmp_path / "text.pem",
    }[given]
    with camera(tmp_path, own) as (url, _, requests):
        with pytest.raises(CameraError, match=said) as caught:
            pictures(url, ca)
        assert requests == []
        assert "s3cret" not in str(caught.value)


def test_a_server_without_tls_is_told_as_such() -> None:
    with (
        serve_behaviour(SERVER_BEHAVIOURS["as the standard says"], jpegs(1)) as url,
        pytest.raises(CameraError, match="offer https"),
    ):
        pictures(url.replace("http:", "https:"), None)
