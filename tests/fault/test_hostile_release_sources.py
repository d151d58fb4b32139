"""A repository's server or folder cannot lead the fetch anywhere else."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from agent.fetch.repository_sources import (
    FolderRepository,
    HttpRepository,
    SourceDownError,
    SourceMissingError,
    checked_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def leading_to(location: str) -> Iterator[str]:
    """A server that answers everything with a redirect; its address."""

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_redirect_does_not_lead_to_the_devices_own_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key", encoding="utf-8")
    for location in (f"file://{secret}", "ftp://127.0.0.1/secret", "data:text/plain,key"):
        with leading_to(location) as address, pytest.raises(SourceDownError):
            HttpRepository(address, timeout_s=5.0).open("metadata/timestamp.json")


def test_a_redirect_in_a_circle_ends() -> None:
    with leading_to("/again") as address, pytest.raises(SourceDownError):
        HttpRepository(address, timeout_s=5.0).open("metadata/timestamp.json")


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/passwd", "a//b", "a\0b", "a?b", "a#b", ".", ""])
def test_a_path_that_climbs_is_no_path_of_a_repository(path: str) -> None:
    with pytest.raises(SourceMissingError):
        checked_path(path)


def test_a_pipe_in_place_of_a_file_is_missing_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "timestamp.json")  # reading it would wait for ever

    with pytest.raises(SourceMissingError):
        FolderRepository(tmp_path).open("timestamp.json")
