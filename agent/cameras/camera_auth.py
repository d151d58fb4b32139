"""Authentication to cameras: Basic and Digest, as HTTP and RTSP use them.

Promise: the strongest scheme that camera and Kensa share is used; with Digest the password itself is never sent. RFC
7616 (Digest with SHA-256 and MD5, `-sess`, `qop=auth`), RFC 2069 (without qop, as old cameras), RFC 7617 (Basic).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# A parameter (name=token or name="quoted"), or, where there is no `=`, the scheme to which the next ones belong.
_ITEM: Final = re.compile(r'([A-Za-z0-9_-]+)(\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?')


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()  # the hash that the cameras use


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_HASHES: Final[dict[str, Callable[[str], str]]] = {"SHA-256": _sha256, "MD5": _md5}  # strongest first


@dataclass(frozen=True, slots=True)
class CameraCredentials:
    """User and password; neither is shown by `repr`."""

    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Challenge:
    scheme: str  # lower case
    parameters: dict[str, str]  # by lower-case name

    @property
    def algorithm(self) -> str:
        return self.parameters.get("algorithm", "MD5").upper()

    @property
    def hash(self) -> str:
        return self.algorithm.removesuffix("-SESS")


def basic_header(login: CameraCredentials) -> str:
    """Return the value of `Authorization` for Basic."""
    return f"Basic {b64encode(f'{login.username}:{login.password}'.encode()).decode()}"


def authorization_header(
    challenges: Iterable[str], login: CameraCredentials, *, method: str, uri: str, count: int = 1
) -> str | None:
    """Return the value of `Authorization` that answers a 401; None where no challenge can be answered.

    `challenges` are the values of WWW-Authenticate, `uri` is the target as the request line has it. `count` numbers the
    requests that answer the same challenge (RFC 7616, `nc`): a server may refuse one that does not grow.
    """
    parsed = [challenge for text in challenges for challenge in list(_parse_challenges(text))]
    for name in _HASHES:
        for challenge in parsed:
            if challenge.scheme == "digest" and challenge.hash == name and _is_supported(challenge):
                return _digest(challenge, login, method=method, uri=uri, count=count)
    if any(challenge.scheme == "basic" for challenge in parsed):
        return basic_header(login)
    return None


def _parse_challenges(text: str) -> Iterator[_Challenge]:
    current: _Challenge | None = None
    for item in _ITEM.finditer(text):
        name, is_parameter, quoted, token = item.groups()
        if is_parameter is None:
            current = _Challenge(name.lower(), {})
            yield current
        elif current is not None:
            value = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            current.parameters.setdefault(name.lower(), value)


def _is_supported(challenge: _Challenge) -> bool:
    offered = challenge.parameters.get("qop")
    return "nonce" in challenge.parameters and (offered is None or "auth" in re.split(r"[\s,]+", offered.lower()))


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _digest(challenge: _Challenge, login: CameraCredentials, *, method: str, uri: str, count: int) -> str:
    given = challenge.parameters
    digest = _HASHES[challenge.hash]
    nonce, client_nonce, number = given["nonce"], secrets.token_hex(16), f"{count:08x}"
    key = digest(f"{login.username}:{given.get('realm', '')}:{login.password}")
    if challenge.algorithm.endswith("-SESS"):
        key = digest(f"{key}:{nonce}:{client_nonce}")
    middle = f"{nonce}:{number}:{client_nonce}:auth" if "qop" in given else nonce
    answer = {
        "username": _quote(login.username),
        "realm": _quote(given.get("realm", "")),
        "nonce": _quote(nonce),
        "uri": _quote(uri),
        "response": _quote(digest(f"{key}:{middle}:{digest(f'{method}:{uri}')}")),
    }
    if "algorithm" in given:
        answer["algorithm"] = given["algorithm"]
    if "opaque" in given:
        answer["opaque"] = _quote(given["opaque"])
    if "qop" in given:
        answer |= {"qop": "auth", "nc": number, "cnonce": _quote(client_nonce)}
    return "Digest " + ", ".join(f"{name}={value}" for name, value in answer.items())
