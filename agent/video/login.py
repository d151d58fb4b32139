"""Who the agent is to an RTSP server: Basic (RFC 7617) and Digest (RFC 7616: MD5 and SHA-256, with and without qop).

Passwords come in and answers to a challenge go out; none is ever part of an error's text.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_SCHEMES: Final = re.compile(r"(?:^|,)\s*(Basic|Digest)\s+", re.IGNORECASE)
_PARAMETERS: Final = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_HASHES: Final = {"md5": hashlib.md5, "sha-256": hashlib.sha256}  # what cameras offer


@dataclass(frozen=True, slots=True)
class Challenge:
    """One WWW-Authenticate of a 401."""

    is_digest: bool
    realm: str = ""
    nonce: str = ""
    algorithm: str = "MD5"
    opaque: str | None = None
    qop: bool = False  # the server wants qop=auth

    @property
    def strength(self) -> int:
        """Higher is better; 0 cannot be answered."""
        if not self.is_digest:
            return 1
        return {"md5": 2, "sha-256": 3}.get(self.algorithm.lower(), 0)


def challenges(values: Iterable[str]) -> list[Challenge]:
    """Read the WWW-Authenticate fields of a response; what is not understood is left out."""
    found = []
    for value in values:
        _, *parts = _SCHEMES.split(value)
        for scheme, text in zip(parts[::2], parts[1::2], strict=True):
            given = {
                match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
                for match in _PARAMETERS.finditer(text)
            }
            found.append(
                Challenge(
                    is_digest=scheme.lower() == "digest",
                    realm=given.get("realm", ""),
                    nonce=given.get("nonce", ""),
                    algorithm=given.get("algorithm", "MD5"),
                    opaque=given.get("opaque"),
                    qop="auth" in re.split(r"[\s,]+", given.get("qop", "")),
                )
            )
    return found


class Login:
    """User and password, and the challenge that was last answered."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password
        self._challenge: Challenge | None = None
        self._count = 0

    def take(self, offered: list[Challenge]) -> bool:
        """Choose the strongest challenge; False when none can be answered."""
        best = max(offered, key=lambda challenge: challenge.strength, default=None)
        if best is None or best.strength == 0:
            return False
        self._challenge = best
        self._count = 0
        return True

    def answer(self, method: str, uri: str) -> str | None:
        """Return the value of the Authorization field for this request; None before a challenge."""
        challenge = self._challenge
        if challenge is None:
            return None
        if not challenge.is_digest:
            return "Basic " + b64encode(f"{self._user}:{self._password}".encode()).decode()
        return self._digest(challenge, method, uri)

    def _digest(self, challenge: Challenge, method: str, uri: str) -> str:
        algorithm = _HASHES[challenge.algorithm.lower()]

        def hashed(*parts: str) -> str:
            return algorithm(":".join(parts).encode()).hexdigest()

        self._count += 1
        secret = hashed(self._user, challenge.realm, self._password)
        request = hashed(method, uri)
        fields = {
            "username": self._user,
            "realm": challenge.realm,
            "nonce": challenge.nonce,
            "uri": uri,
        }
        extra = f", algorithm={challenge.algorithm}"
        if challenge.qop:
            count, own = f"{self._count:08x}", secrets.token_hex(8)
            fields["cnonce"] = own
            extra += f", qop=auth, nc={count}"
            fields["response"] = hashed(secret, challenge.nonce, count, own, "auth", request)
        else:
            fields["response"] = hashed(secret, challenge.nonce, request)
        if challenge.opaque is not None:
            fields["opaque"] = challenge.opaque
        quoted = ", ".join(f'{name}="{_escaped(value)}"' for name, value in fields.items())
        return f"Digest {quoted}{extra}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
