"""RTSP authentication: answers one challenge of the server over many requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cameras.camera_auth import authorization_header

if TYPE_CHECKING:
    from agent.cameras.camera_auth import CameraCredentials


class RtspAuth:
    """User and password, and the challenge that was last answered. Neither is part of any error's text."""

    def __init__(self, login: CameraCredentials) -> None:
        self._login = login
        self._challenges: list[str] = []  # values of WWW-Authenticate
        self._count = 0

    def take(self, challenges: list[str]) -> bool:
        """Answer these challenges from now on; False when none of them can be answered."""
        self._challenges, self._count = challenges, 0
        return self.authorization("OPTIONS", "*") is not None

    def authorization(self, method: str, uri: str) -> str | None:
        """Return the value of the Authorization field for this request; None before a challenge."""
        self._count += 1
        return authorization_header(self._challenges, self._login, method=method, uri=uri, count=self._count)
