"""Reports the sizes of the packages in archives, as a table in Markdown."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from packaging.utils import parse_wheel_filename

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MB: Final = 1e6
_SMALL_BYTES: Final = 500_000  # smaller packages share one row


def table(archives: Sequence[Path]) -> str:
    """Return the table. Rows: packages, largest first; columns: archives, in MB of 10^6 bytes."""
    sizes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                sizes[_row(info)][path.name] += info.file_size
    for row in [row for row, columns in sizes.items() if max(columns.values()) < _SMALL_BYTES and row != "kensa"]:
        for name, size in sizes.pop(row).items():
            sizes["other packages and files"][name] += size
    names = [path.name for path in archives]
    heads = [name.removeprefix("kensa-").removesuffix(".zip") for name in names]
    lines = [f"| MB | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for row, columns in sorted(sizes.items(), key=lambda item: -max(item[1].values())):
        lines.append(f"| {row} | {' | '.join(f'{columns[name] / _MB:.2f}' for name in names)} |")
    totals = (f"{path.stat().st_size / _MB:.2f}" for path in archives)
    return "\n".join([*lines, f"| **archive** | {' | '.join(totals)} |"])


def package_sizes(archive: Path) -> dict[str, int]:
    """Return the bytes of one archive by package, or by folder of other files; largest first."""
    sizes: dict[str, int] = defaultdict(int)
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            sizes[_row(info)] += info.file_size
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _row(info: zipfile.ZipInfo) -> str:
    folder, _, name = info.filename.partition("/")
    if folder == "wheels":
        return str(parse_wheel_filename(name)[0])
    return f"{folder}/" if name else "other packages and files"
