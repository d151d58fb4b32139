"""Checks the validity of the broker's CA and of the device's certificate.

The dates are read from the PEM without a cryptography package; trust is left to the TLS handshake.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from agent.commands.doctor.check_result import CheckResult, fail, ok, warn
from agent.config import MqttConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.commands.doctor.check_context import CheckContext

_SOON_DAYS: Final = 30
_MAX_BYTES: Final = 1024 * 1024
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17  # DER tags


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check the certificates of an MQTT transport with TLS."""
    chosen = context.config.transport
    if isinstance(chosen, MqttConfig) and chosen.tls is not None:
        yield check_certificate("certificate ca", chosen.tls.ca)
        if chosen.tls.certificate is not None:
            yield check_certificate("certificate device", chosen.tls.certificate)


def check_certificate(check: str, path: Path) -> CheckResult:
    """Check the dates of the first certificate in a PEM file."""
    remedy = "renew it and replace the file"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("ascii", "replace")
        begins, ends = validity(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return fail(check, f"{path}: {reason}", "give a PEM certificate that the agent's user may read")
    now = datetime.now(UTC)
    days = (ends - now).days
    if now < begins:
        return fail(check, f"{path} is valid from {begins:%Y-%m-%d} on only", "check the clock, or the certificate")
    if now > ends:
        return fail(check, f"{path} expired on {ends:%Y-%m-%d}", remedy)
    if days < _SOON_DAYS:
        return warn(check, f"{path} expires on {ends:%Y-%m-%d}, in {days} days", remedy)
    return ok(check, f"{path} is valid until {ends:%Y-%m-%d}")


def validity(pem: str) -> tuple[datetime, datetime]:
    """Return (not before, not after) of the first certificate in `pem`. Raises ValueError."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("it contains no PEM certificate")
    der = ssl.PEM_cert_to_DER_cert(found[0])
    try:
        _, start, _ = _element(der, 0)  # Certificate
        _, position, _ = _element(der, start)  # its TBSCertificate (RFC 5280, 4.1)
        tag, _, end = _element(der, position)
        if tag == _VERSION:
            position = end
        for _ in range(3):  # serial number, signature algorithm, issuer
            position = _element(der, position)[2]
        tag, start, _ = _element(der, position)
        if tag != _SEQUENCE:
            raise ValueError("its validity is not where it should be")
        first = _element(der, start)
        return _time(der, first), _time(der, _element(der, first[2]))
    except IndexError:
        raise ValueError("it is cut") from None


def _element(der: bytes, position: int) -> tuple[int, int, int]:
    """Return tag, start and end of the contents of the DER element at `position`."""
    tag, length, start = der[position], der[position + 1], position + 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(der[start : start + count], "big"), start + count
    if start + length > len(der):
        raise IndexError
    return tag, start, start + length


def _time(der: bytes, element: tuple[int, int, int]) -> datetime:
    tag, start, end = element
    text = der[start:end].decode("ascii", "replace").removesuffix("Z")
    if tag == _UTC_TIME:  # two digits of the year: 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
