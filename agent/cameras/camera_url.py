"""Camera addresses: where to connect, with which credentials, and how to show one without them.

Promise: errors, log lines, reports and pages show an address only after `redact`, which leaves scheme and host. A
password may be anywhere else: before the `@`, in the query, in the path (`user=..._password=...`), and with characters
that a URL does not allow there. Where host and password cannot be distinguished, neither is shown.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from agent.cameras.camera_auth import CameraCredentials
from agent.errors import CameraError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

UNREADABLE: Final = "<unreadable address>"
HIDDEN_HOST: Final = "***"  # shown in place of a host that may be part of a password

_MAX_PORT: Final = 65_535
_MAX_SECRET_BYTES: Final = 4_096  # of a password file; anything longer is no password
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAMED_PASSWORD: Final = re.compile(r"(?:pass|pwd|token|secret)\w*=(?!\$\{|&|$)", re.IGNORECASE)
# `=` with a value; or, in a query, a word without one; or a fragment or an `@`, which have no business in an address
_VALUE: Final = re.compile(r"=[^&]|&[^&=]+(?:&|$)|[#@]")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]{0,15})://", re.IGNORECASE)
_AUTHORITY_END: Final = re.compile(r"[/?#\\]|$")
_HOST: Final = re.compile(r"[\w.-]+|[0-9a-f:.]+(?:%25[\w.]+)?", re.IGNORECASE)
_HOST_AND_PORT: Final = re.compile(
    rf"(?:\[([0-9a-f:.]+(?:%25[\w.]+)?)\]|((?:[\w.-]|{_VARIABLE.pattern.replace('(', '(?:')})+))"
    rf"(?::([0-9]{{1,5}}|{_VARIABLE.pattern.replace('(', '(?:')}))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class CameraEndpoint:
    """Where to connect now, and with which credentials."""

    scheme: str
    host: str  # without brackets
    port: int | None
    path: str = field(repr=False)  # with the query
    credentials: CameraCredentials | None

    @property
    def authority(self) -> str:
        """Host and port as in a URL and in the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address with escaped user and password, for libraries that accept nothing else."""
        user = (
            ""
            if self.credentials is None
            else f"{quote(self.credentials.username, '')}:{quote(self.credentials.password, '')}@"
        )
        return f"{self.scheme}://{user}{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class CameraAddress:
    """An address as configured: variables of the environment (`${NAME}`) and the password file are read when needed."""

    url: str = field(repr=False)
    username: str | None = None  # in place of the one in the address
    password_file: Path | None = None

    @property
    def redacted(self) -> str:
        """Scheme and host, for people."""
        return redact(self.url)

    def resolve(self, environ: Mapping[str, str] | None = None) -> CameraEndpoint:
        """Read variables and password file, and return where to connect. Raises CameraError without a secret in it."""
        environ = os.environ if environ is None else environ
        variables: Mapping[str, str] | None = environ
        url = self.url.strip()
        if _VARIABLE.fullmatch(url):
            url, variables = _expand_variables(url, environ), None  # the value of a variable is used unchanged
        parts = _split(url) or _split_at_last(url)
        if parts is None:
            raise CameraError("its address is malformed: one like scheme://host:port/path is needed")
        port = None if parts.port is None else _expand_variables(parts.port, variables)
        if port is not None and not (port.isdecimal() and 0 < int(port) <= _MAX_PORT):
            raise CameraError(f"the port in its address is no number from 1 to {_MAX_PORT}")
        host = _expand_variables(parts.host, variables)
        if _HOST.fullmatch(host) is None:
            raise CameraError("the host in its address is no name or IP address")
        login = parts.credentials(variables)
        if self.username is not None:
            password = "" if self.password_file is None else _read_secret(self.password_file)
            login = CameraCredentials(_expand_variables(self.username, environ), password)
        return CameraEndpoint(
            scheme=parts.scheme,
            host=host,
            port=None if port is None else int(port),
            path=_absolute_path(_expand_variables(parts.rest.partition("#")[0], variables)),
            credentials=login,
        )


@dataclass(frozen=True, slots=True)
class _UrlParts:
    scheme: str
    user: str | None  # user:password as written
    host: str
    port: str | None
    rest: str  # path, query, fragment

    def credentials(self, variables: Mapping[str, str] | None) -> CameraCredentials | None:
        """User and password, unescaped before variables are expanded: their values are used unchanged."""
        if self.user is None:
            return None
        name, _, password = self.user.partition(":")
        return CameraCredentials(
            _expand_variables(unquote(name), variables), _expand_variables(unquote(password), variables)
        )


def _make_parts(scheme: str, user: str | None, place: str, rest: str) -> _UrlParts | None:
    found = _HOST_AND_PORT.fullmatch(place)
    if found is None or (found[3] and found[3].isdecimal() and not 0 < int(found[3]) <= _MAX_PORT):
        return None
    return _UrlParts(scheme, user, found[1] or found[2], found[3], rest)


def _split(url: str) -> _UrlParts | None:
    """Split by RFC 3986; None where that gives no host."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        return None
    end = _AUTHORITY_END.search(url, scheme.end())
    stop = len(url) if end is None else end.start()
    user, at, place = url[scheme.end() : stop].rpartition("@")
    return _make_parts(scheme[1].lower(), user if at else None, place, url[stop:])


def _split_at_last(url: str) -> _UrlParts | None:
    """Split at the last `@`: for a password with `/`, `?` or `#` in it."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        return None
    user, at, rest = url[scheme.end() :].rpartition("@")
    end = _AUTHORITY_END.search(rest)
    stop = len(rest) if end is None else end.start()
    return _make_parts(scheme[1].lower(), user, rest[:stop], rest[stop:]) if at else None


def _absolute_path(path: str) -> str:
    """Return the path as a request needs it: absolute, in ASCII and without blanks."""
    return quote(path if path.startswith("/") else f"/{path}", safe="/%:@!$&'()*+,;=?[]~|{}^`\"<>\\")


def _expand_variables(text: str, variables: Mapping[str, str] | None) -> str:
    """Expand the variables; None leaves `text` unchanged. Raises CameraError for a variable that is not set."""
    if variables is None:
        return text

    def value(found: re.Match[str]) -> str:
        if found[1] not in variables:
            raise CameraError(f"the environment variable {found[1]} is not set, which its address needs: set it")
        return variables[found[1]]

    return _VARIABLE.sub(value, text)


def _read_secret(path: Path) -> str:
    """Return the password in a file, without the line break at its end. Raises CameraError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SECRET_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise CameraError(f"password_file {path} cannot be read ({error.strerror}): check path and rights") from error
    except UnicodeDecodeError:
        raise CameraError(f"password_file {path} is not text in UTF-8") from None
    if len(data) > _MAX_SECRET_BYTES:
        raise CameraError(f"password_file {path} has more than {_MAX_SECRET_BYTES:,} bytes: it holds no password")
    return text.rstrip("\r\n")


def missing_variables(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the names of `${NAME}` in `text` that are not set in the environment."""
    environ = os.environ if environ is None else environ
    return sorted({name for name in _VARIABLE.findall(text) if name not in environ})


def is_connectable(url: str) -> bool:
    """Return whether a connection is possible, once its variables are known."""
    return _VARIABLE.fullmatch(url) is not None or (_split(url) or _split_at_last(url)) is not None


def has_secret(url: str) -> bool:
    """Return whether it may contain a secret: a password, a value in the path, or a query that is no reference."""
    parts = _split(url) or _split_at_last(url)
    if parts is None:
        return True
    password = "" if parts.user is None else parts.user.partition(":")[2]
    path, _, query = _VARIABLE.sub("", parts.rest).partition("?")
    return bool(_VARIABLE.sub("", password)) or _VALUE.search(f"/{path}&{query}") is not None


def has_password(url: str) -> bool:
    """Return whether it certainly contains a literal password: before the `@`, or under such a name."""
    parts = _split(url) or _split_at_last(url)
    if parts is None:
        return False
    password = "" if parts.user is None else parts.user.partition(":")[2]
    return bool(_VARIABLE.sub("", password)) or _NAMED_PASSWORD.search(parts.rest) is not None


def redact(url: str) -> str:
    """Return scheme, host and port of `url`; anything that cannot be parsed with certainty is hidden."""
    if _VARIABLE.fullmatch(url):
        return url
    plain = _split(url)
    parts = plain or _split_at_last(url)
    if parts is None:
        return UNREADABLE
    host = f"[{parts.host}]" if ":" in parts.host else parts.host
    if not has_ambiguous_host(url):
        return f"{parts.scheme}://{host}" + ("" if parts.port is None else f":{parts.port}")
    if _is_ip(parts.host):
        return f"{parts.scheme}://{host}"
    return UNREADABLE if plain is None else f"{parts.scheme}://{HIDDEN_HOST}"


def redact_location(place: str) -> str:
    """Return a folder, or an address that cannot contain a secret, unchanged; redact any other address."""
    return redact(place) if "://" in place and has_secret(place) else place


def has_ambiguous_host(url: str) -> bool:
    """Return whether an `@` follows the apparent host: it may belong to a password that is not escaped."""
    parts = _split(url)
    return parts is None or "@" in parts.rest


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
