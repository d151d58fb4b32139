"""HTTPS to a camera, always verified: against the system's authorities or a given file.

Promise: a camera that cannot authenticate itself gets no request, and so no password; the error names the remedy. Many
cameras carry a self-made certificate that names no address: given as `ca`, exactly that certificate is accepted,
whatever name it carries.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Final

from agent.errors import CameraError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

# X509_V_ERR_* of OpenSSL's x509_vfy.h
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_HANDSHAKE_S: Final = 3.0  # a small camera needs half a second for its signature
_OTHER_NAME: Final = frozenset({62, 64})  # of another host, of another IP address


def connect_tls(connect: Callable[[], socket.socket], *, host: str, ca: Path | None) -> ssl.SSLSocket:
    """Connect and do the handshake. Raises CameraError, and the network's OSError."""
    context = _context(ca)
    plain = connect()
    try:
        return _handshake(context, plain, host)
    except TimeoutError:
        raise CameraError("it does not answer in TLS: does it offer https there?") from None
    except ssl.SSLCertVerificationError as error:
        if ca is None or error.verify_code not in _OTHER_NAME:
            raise CameraError(_refusal(error.verify_code, ca=ca)) from None
    except ssl.SSLError as error:
        raise CameraError(
            f"no TLS with it ({error.reason or 'handshake failed'}): does it offer https there?"
        ) from None
    # Signed correctly, for another name: it must be exactly the certificate that was given.
    context.check_hostname = False
    connection = _handshake(context, connect(), host)
    if connection.getpeercert(binary_form=True) in _certificates(ca):
        return connection
    connection.close()
    raise CameraError(
        f"its certificate is for another name than {host}: use that name in the address, "
        "or give the camera's own certificate as `ca`"
    )


def _context(ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise CameraError(f"ca {ca} holds no certificate in PEM") from None
    except OSError as error:
        raise CameraError(f"ca {ca} cannot be read ({error.strerror}): check path and rights") from None
    if ca is not None:
        # The file may hold the camera's own certificate, with arbitrary extensions.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _certificates(path: Path) -> list[bytes]:
    """Return the certificates of a file, in DER; `SSLContext.get_ca_certs` omits those that are no authority's."""
    blocks = _PEM.findall(path.read_text(encoding="latin-1"))
    return [ssl.PEM_cert_to_DER_cert(block) for block in blocks]


def _handshake(context: ssl.SSLContext, plain: socket.socket, host: str) -> ssl.SSLSocket:
    plain.settimeout(_HANDSHAKE_S)
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _refusal(code: int, *, ca: Path | None) -> str:
    if code in {_NOT_YET_VALID, _EXPIRED}:
        when = "has expired" if code == _EXPIRED else "is not valid yet"
        return f"its certificate {when}: make a new one in the camera, and check this device's clock"
    if code in _OTHER_NAME:
        return "its certificate is for another name: use that name in the address, or give the certificate as `ca`"
    if ca is None:
        return (
            "its certificate is not signed by an authority that this device knows: save that of the camera, or of "
            "the authority that signed it, as a file and give it as `ca`"
        )
    return f"its certificate is neither in {ca} nor signed by one there: give the one that the camera has now"
