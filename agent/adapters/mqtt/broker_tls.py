"""TLS contexts and passwords for the broker.

The files are checked at start, so that a wrong one is named before the line runs, and read again for each connection,
so that rotated ones are used.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

IOT_CORE_ALPN: Final = "x-amzn-mqtt-ca"  # client certificates on port 443
HTTPS_PORT: Final = 443


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files. Without `certificate` and `key` only the broker is authenticated (user and password, for example).

    `key` must not be encrypted. `alpn` None: IoT Core's own with a certificate on port 443, else none.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    alpn: str | None = None


class _TidySocket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho forgets such a socket, and each attempt would leave one open."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's signature
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _readable(path: Path, what: str) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        msg = f"{what} {path}: {error.strerror}. Give a PEM file that the agent's user may read"
        raise ConfigError(msg) from error
    if empty:
        msg = f"{what} {path} is empty. Give a PEM file"
        raise ConfigError(msg)


def read_password(path: Path) -> str:
    """Return the text of the password file without white space around it. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"transport.password_file {path} cannot be read: {error}") from error


def tls_context(files: TlsFiles, *, port: int) -> ssl.SSLContext:
    """Load the certificates. Raises ConfigError naming the file and the remedy."""
    _readable(files.ca, "CA certificate")
    try:
        context = ssl.create_default_context(cafile=files.ca)
    except ssl.SSLError as error:
        msg = f"CA certificate {files.ca} is no PEM certificate. For AWS IoT Core it is AmazonRootCA1.pem"
        raise ConfigError(msg) from error
    context.sslsocket_class = _TidySocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.certificate is not None and files.key is not None:
        _load_pair(context, files.certificate, files.key)
    elif files.certificate is not None or files.key is not None:
        raise ConfigError("transport.tls: certificate and key belong together. Give both, or neither")
    alpn = files.alpn or (IOT_CORE_ALPN if port == HTTPS_PORT and files.certificate is not None else None)
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _readable(certificate, "client certificate")
    _readable(key, "private key")
    asked = False

    def encrypted() -> str:
        nonlocal asked
        asked = True
        return ""

    try:  # the password callback keeps OpenSSL from asking on the terminal
        context.load_cert_chain(certificate, key, password=encrypted)
    except ssl.SSLError as error:
        if asked:
            msg = f"private key {key} is encrypted. Give it unencrypted, mode 0600 (openssl pkey -in ... -out ...)"
        elif error.reason == "KEY_VALUES_MISMATCH":
            msg = f"private key {key} does not belong to {certificate}. Give the pair that was issued"
        else:
            msg = f"client certificate {certificate} with key {key}: not PEM ({error.reason}). Give PEM files"
        raise ConfigError(msg) from error
