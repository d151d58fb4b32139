"""The state directory and the ports: what the agent needs of the machine it runs on."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.commands.doctor.check_result import CheckResult, fail, ok, warn
from agent.control import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config import Config

_SLOW_FSYNC_MS: Final = 50.0
_VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
_DOUBTFUL: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "vboxsf"}
)  # fsync and locks may not hold
_GB: Final = 1e9


def running_agent(state_dir: Path) -> int | None:
    """Process id of the agent that holds the lock of `state_dir`; 0 when it cannot be read, None when nobody does."""
    try:
        fd = os.open(state_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).strip()
        return int(holder) if holder.isdigit() else 0
    except OSError:
        return None
    finally:
        os.close(fd)
    return None


def run_checks(config: Config, *, running: bool) -> Iterator[CheckResult]:
    """Directory, disk, and the port of the metrics when no agent is `running`."""
    state_dir = config.state_dir
    if state_dir.exists():
        yield _writable(state_dir)
        where = state_dir
    else:
        where = next((p for p in state_dir.parents if p.exists()), Path("/"))
        if os.access(where, os.W_OK | os.X_OK):
            yield ok("state_dir", f"{state_dir} does not exist yet; kensa run makes it")
        else:
            yield fail(
                "state_dir",
                f"{state_dir} does not exist, and {where} may not be written",
                "make it and give it to the user who runs Kensa, or set another state_dir",
            )
    yield _file_system(where)
    yield _room(config, where)
    if config.metrics is not None and not running:
        yield _port(config.metrics.port)


def _writable(state_dir: Path) -> CheckResult:
    remedy = "give the user who runs Kensa write access to it, or set another state_dir"
    try:
        with tempfile.NamedTemporaryFile(dir=state_dir, prefix=".doctor-") as file:
            file.write(b"kensa")
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took_ms = (time.perf_counter() - began) * 1_000
    except OSError as error:
        return fail("state_dir", f"{state_dir} cannot be written: {error.strerror}", remedy)
    seen = f"{state_dir} is writable, an fsync takes {took_ms:.1f} ms"
    if took_ms > _SLOW_FSYNC_MS:
        return warn(
            "state_dir", seen, "a slow disk delays the commit of defects: raise outbox.commit_ms, or use another"
        )
    return ok("state_dir", seen)


def file_system_type(mountinfo: str, path: Path) -> str:
    """Type of the file system that holds `path`, from the text of /proc/self/mountinfo (proc(5)); "" when unknown."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5:  # noqa: PLR2004 - the fifth is the mount point
            continue
        mount = fields[4].encode().decode("unicode_escape")  # blanks stand there as \040
        if path.is_relative_to(mount) and len(mount) >= best:
            best, kind = len(mount), after.split()[0]
    return kind


def _file_system(where: Path) -> CheckResult:
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    kind = file_system_type(text, where.resolve())
    remedy = "put state_dir on a local disk (ext4, xfs, btrfs)"
    if kind in _VOLATILE:
        return warn("file system", f"{kind}: undelivered verdicts are lost at power loss", remedy)
    if kind in _DOUBTFUL:
        return warn("file system", f"{kind}: fsync and locks may not hold", remedy)
    return ok("file system", kind or "of unknown type")


def _room(config: Config, where: Path) -> CheckResult:
    """Compare the free space with what outbox, history and kept frames may still grow to."""
    caps = config.outbox.max_bytes + config.outbox.history_bytes
    caps += config.keep.max_bytes * len(config.inspections) if config.keep.frames else 0
    caps += 0 if config.collect is None else config.collect.max_disk_bytes
    try:
        free = shutil.disk_usage(where).free
    except OSError as error:
        return fail("disk", f"{where}: {error.strerror}", "mount it, or set another state_dir")
    used = _tree_bytes(config.state_dir)
    seen = f"{free / _GB:.1f} GB free; outbox, history and frames hold {used / _GB:.1f} of at most {caps / _GB:.1f} GB"
    if free < config.outbox.max_bytes / 10:
        return fail("disk", seen, "free space, or set a smaller outbox.max_bytes")
    if free < caps - used:
        return warn("disk", seen, "free space, or set smaller outbox.max_bytes, keep.max_bytes, collect.max_disk_bytes")
    return ok("disk", seen)


def _tree_bytes(root: Path) -> int:
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except OSError:  # it went away meanwhile
                continue
    return total


def _port(port: int) -> CheckResult:
    if port == 0:
        return ok("metrics", "any free port of 127.0.0.1")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return fail("metrics", f"127.0.0.1:{port}: {error.strerror}", "choose another metrics.port, or 0 for any")
    return ok("metrics", f"127.0.0.1:{port} is free")
