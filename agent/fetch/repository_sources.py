"""Sources of a repository's files: a folder (disk, USB stick, network share) or HTTP(S).

Promise: a source opens regular files below its base only, follows no path upwards, and reports failures as one of two
errors that the caller can act on: SourceMissingError (there is no such file) and SourceDownError (try again). It does
not bound bytes or time: `transfer` does that for all sources.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import stat
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SAFE_PART: Final = re.compile(r"[A-Za-z0-9_.%~+-]{1,255}")
_MISSING: Final = frozenset({403, 404, 410})  # a bucket that may not be listed answers 403 for what it lacks
_NO_SUCH_RANGE: Final = 416
_PARTIAL: Final = 206


class SourceMissingError(Exception):
    """The repository has no such file."""


class SourceDownError(Exception):
    """The repository does not answer, or not properly; another attempt may help."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An open file of the repository: `read(n)` gives up to n bytes, b"" at the end."""

    read: Callable[[int], bytes]
    close: Callable[[], None]
    start: int  # of the first byte; 0 where the source cannot start further on

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; errors of closing are ignored."""
        with contextlib.suppress(Exception):
            self.close()


class RepositorySource(Protocol):
    """A repository's files by their path relative to its base."""

    errors: tuple[type[Exception], ...]  # what `RemoteFile.read` may raise when the source fails in the middle

    def open(self, path: str, *, start: int = 0) -> RemoteFile:
        """Open `path`, from byte `start` on if the source can. Raises SourceMissingError or SourceDownError."""


def checked_path(path: str) -> str:
    """`path`, relative and without a step upwards. Raises SourceMissingError: no honest repository has another one."""
    for part in path.split("/"):
        if part in {".", ".."} or not _SAFE_PART.fullmatch(part):
            raise SourceMissingError(f"{path!r} is no path inside a repository")
    return path


class FolderRepository:
    """A repository in a folder."""

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, folder: Path) -> None:
        """Nothing is opened yet."""
        self._folder = folder

    def open(self, path: str, *, start: int = 0) -> RemoteFile:
        """See `RepositorySource.open`. What is not a regular file (a device, a pipe) counts as missing."""
        try:
            file = os.fdopen(
                os.open(self._folder / checked_path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self._folder.is_dir():
                raise SourceDownError(f"the folder {self._folder} is not there; is the medium inserted?") from error
            raise SourceMissingError(f"{self._folder / path} does not exist") from error
        except OSError as error:
            raise SourceDownError(f"{self._folder / path}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise SourceMissingError(f"{self._folder / path} is not a regular file")
        file.seek(start)
        return RemoteFile(file.read, file.close, start)


class HttpRepository:
    """A repository behind any HTTP(S) server that serves files; ranges are used where it offers them."""

    errors: tuple[type[Exception], ...] = (OSError, http.client.HTTPException)

    def __init__(self, base: str, *, timeout_s: float) -> None:
        """`timeout_s` is for each network operation. Proxies and certificate authorities come from the environment."""
        self._base = base.rstrip("/")
        self._timeout_s = timeout_s
        self._opener = urllib.request.OpenerDirector()
        for handler in (  # without those for file:, ftp: and data:, which a redirect could name
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.UnknownHandler(),
        ):
            self._opener.add_handler(handler)

    def open(self, path: str, *, start: int = 0) -> RemoteFile:
        """See `RepositorySource.open`."""
        url = f"{self._base}/{quote(checked_path(path), safe='/')}"
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310 - open_repository() checked the scheme
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            response = self._opener.open(request, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _MISSING:
                raise SourceMissingError(f"{url} answered {error.code}") from error
            if error.code == _NO_SUCH_RANGE and start:
                return self.open(path)
            raise SourceDownError(f"{url} answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise SourceDownError(f"{url}: {reason}") from error
        if response is None:
            raise SourceDownError(f"{url} led to an address that is not HTTP")
        begin = first_byte_offset(response.status, response.headers.get("Content-Range"))
        if begin != start:
            response.close()
            if not start:
                raise SourceDownError(f"{url} answered with a range of the file that was not requested")
            return self.open(path)
        return RemoteFile(_read_whole(response), response.close, begin)


def _read_whole(response: http.client.HTTPResponse) -> Callable[[int], bytes]:
    """Return a `read` that raises IncompleteRead when fewer bytes arrive than the server announced."""

    def read(count: int) -> bytes:
        data = response.read(count)
        if not data and response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return data

    return read


def first_byte_offset(status: int, content_range: Any) -> int:
    """Offset of the first byte that an answer carries; -1 when the answer does not say."""
    if status != _PARTIAL:
        return 0
    found = re.match(r"bytes (\d{1,15})-", str(content_range))
    return int(found[1]) if found else -1
