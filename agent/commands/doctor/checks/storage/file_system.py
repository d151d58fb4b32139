"""Checks that the state directory's file system survives a power loss and honours fsync and locks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.commands.doctor.check_result import CheckResult, ok, warn
from agent.commands.doctor.checks.storage.state_dir_access import nearest_existing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.commands.doctor.check_context import CheckContext

_VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
# fsync and locks may not work
_DOUBTFUL: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "vboxsf"})


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check the file system that holds, or will hold, the state directory."""
    yield _check(nearest_existing(context.config.state_dir))


def file_system_type(mountinfo: str, path: Path) -> str:
    """Return the type of the file system of `path`, from the text of /proc/self/mountinfo (proc(5)); "" if unknown."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5:  # noqa: PLR2004 - the fifth is the mount point
            continue
        mount = fields[4].encode().decode("unicode_escape")  # blanks are written as \040
        if path.is_relative_to(mount) and len(mount) >= best:
            best, kind = len(mount), after.split()[0]
    return kind


def _check(folder: Path) -> CheckResult:
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    kind = file_system_type(text, folder.resolve())
    remedy = "put state_dir on a local disk (ext4, xfs, btrfs)"
    if kind in _VOLATILE:
        return warn("file system", f"{kind}: undelivered verdicts are lost at power loss", remedy)
    if kind in _DOUBTFUL:
        return warn("file system", f"{kind}: fsync and locks may not hold", remedy)
    return ok("file system", kind or "of unknown type")
