"""Packs the source bundle of a training job: sources, the lock and the program, as one tar.

Promise: equal files give equal bytes (sorted names, no times, no owners), so that the bundle's digest names the code.
A job installs the versions of a device: `requirements.txt` is the lock of the extra `train`, which contains them; torch
comes with the image.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import agent
from agent.errors import OperatorError
from pipeline.sagemaker.job_request import PROGRAM_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGES: Final = ("agent", "pipeline")
_LOCK: Final = "train"
_PROGRAM: Final = b"""from pipeline.sagemaker.job_entry import main

raise SystemExit(main())
"""


def checkout_root() -> Path:
    """The folder that holds the packages and the lock."""
    return Path(agent.__file__).parent.parent


def make_bundle(root: Path | None = None) -> bytes:
    """The bundle's bytes, tar.gz. Raises OperatorError without the lock: bundles are made from a checkout."""
    root = root or checkout_root()
    lock = root / "requirements" / f"{_LOCK}.txt"
    if not lock.is_file():
        raise OperatorError(f"{lock} does not exist. Make the bundle from a checkout, after scripts/lock.")
    files = {PROGRAM_NAME: _PROGRAM, "requirements.txt": lock.read_bytes()}
    files |= {path.relative_to(root).as_posix(): path.read_bytes() for path in _sources(root)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), mtime=0)


def bundle_name(data: bytes) -> str:
    """A name that identifies the code: kensa-source-DIGEST.tar.gz."""
    return f"kensa-source-{hashlib.sha256(data).hexdigest()[:16]}.tar.gz"


def _sources(root: Path) -> Iterator[Path]:
    yield from (root / "requirements").glob("*.txt")
    for package in _PACKAGES:
        for path in (root / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
                yield path
