"""`python -m simulator.line`: write datasets and sample sheets of the simulated line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from agent.errors import KensaError
from simulator.line.config import CAMERAS, SURFACES, LineConfig
from simulator.line.dataset import DEFAULT_DEFECT_SHARE, ImageFormat, render_dataset
from simulator.line.sample_sheets import write_defect_sheet, write_frame_sheet

if TYPE_CHECKING:
    from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulator.line", description=__doc__)
    parser.add_argument("--dataset", type=Path, metavar="DIR", help="write parts with masks and manifest.csv")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write a sheet of surfaces and graded defects")
    parser.add_argument("--frames", type=Path, metavar="FILE", help="write a sheet of one whole frame of each camera")
    parser.add_argument("--parts", type=int, default=1000, metavar="N", help="parts in the dataset (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="which line (%(default)s)")
    parser.add_argument("--split", default="train", help="name of the split that is written (%(default)s)")
    parser.add_argument("--defect-rate", type=float, default=DEFAULT_DEFECT_SHARE, help="(%(default)s)")
    parser.add_argument("--camera", choices=sorted(CAMERAS), default="colour1080", help="(%(default)s)")
    parser.add_argument("--surface", choices=SURFACES, nargs="+", default=list(SURFACES), help="(all)")
    parser.add_argument("--format", choices=get_args(ImageFormat), default="png", help="png is lossless (%(default)s)")
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="processes (one per core)")
    return parser


def _progress(done: int, total: int) -> None:
    if done == total or done % 50 == 0:
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r{done} of {total} parts{end}")
        sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.dataset or options.sheet or options.frames):
        parser.error("nothing to do: give --dataset DIR, --sheet FILE or --frames FILE")
    if options.parts < 1:
        parser.error(f"--parts is {options.parts}; it must be at least 1")
    try:
        if options.sheet:
            write_defect_sheet(options.sheet, seed=options.seed)
        if options.frames:
            write_frame_sheet(options.frames, seed=options.seed)
        if options.dataset:
            config = LineConfig(
                seed=options.seed,
                camera=options.camera,
                surfaces=tuple(options.surface),
                defect_rate=options.defect_rate,
            )
            render_dataset(
                options.dataset,
                options.parts,
                options.seed,
                options.split,
                config=config,
                image_format=options.format,
                workers=options.workers,
                progress=_progress,
            )
    except ValueError as error:  # pydantic's, from an option outside its range
        parser.error(str(error))
    except (KensaError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code if isinstance(error, KensaError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
