"""TokenExchangeService: a loopback HTTP endpoint that exchanges a component's token for credentials.

The credentials mean nothing; a simulation of S3 takes them. Who shows no token of the nucleus gets nothing.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN_EXCHANGE_COMPONENT: Final = "aws.greengrass.TokenExchangeService"  # noqa: S105 - a component name
_PATH: Final = "/2016-11-01/credentialprovider/"
_LIFE: Final = timedelta(hours=1)


class TokenExchange:
    """The endpoint. `start` and `stop` may be called once each."""

    def __init__(self, *, knows: Callable[[str], bool]) -> None:
        """`knows(token)` says whether a component has this token; it is called from a thread of this class."""
        exchange = self
        self.issued = 0  # credentials so far

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, content = exchange._answer(self.path, self.headers.get("Authorization", ""), knows)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="token-exchange", daemon=True)

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def environment(self, token: str) -> dict[str, str]:
        """Return what a component with `token` finds in its environment; AWS SDKs look for it by themselves."""
        url = f"http://localhost:{self._server.server_address[1]}{_PATH}"
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": token}

    def _answer(self, path: str, token: str, knows: Callable[[str], bool]) -> tuple[int, bytes]:
        if path != _PATH:
            return 404, b"{}"
        if not knows(token):
            return 403, b"{}"
        self.issued += 1
        keys = {
            "AccessKeyId": "simulator",
            "SecretAccessKey": "simulator",
            "Token": "simulator",
            "Expiration": (datetime.now(UTC) + _LIFE).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return 200, json.dumps(keys).encode()
