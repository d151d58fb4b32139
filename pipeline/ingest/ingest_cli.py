"""`kensa cloud ingest`: append messages to the tables in a folder, or refresh the labels table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import OperatorError, UsageError
from pipeline.cloud.storage import open_storage
from pipeline.datasets.collected_frames import scan_frames
from pipeline.datasets.label_store import load_labels
from pipeline.ingest.labels_table import refresh_labels
from pipeline.ingest.lake_writer import LakeWriter

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run `kensa cloud ingest`; returns the exit code: 4 if a message was refused."""
    parser = argparse.ArgumentParser(
        prog="kensa cloud ingest", description="Append messages to the tables in a folder, or refresh the labels."
    )
    parser.add_argument("messages", type=Path, nargs="?", help="one JSON object a line; - for standard input")
    parser.add_argument("--out", required=True, help="folder with the tables; for labels also s3://BUCKET/lake")
    parser.add_argument("--site", help="the plant of the messages")
    labels = parser.add_argument_group("labels of collected frames")
    labels.add_argument("--labels", metavar="URI", help="store or file of labels, as written by kensa cloud labels")
    labels.add_argument("--collected", metavar="URI", help="folder or bucket of the collected frames")
    return _ingest(parser.parse_args(argv))


def _ingest(arguments: argparse.Namespace) -> int:
    if (arguments.messages is None) == (arguments.labels is None):
        raise UsageError("Give a file of messages and --site, or --labels and --collected.")
    if arguments.labels is not None:
        return _ingest_labels(arguments)
    if arguments.site is None:
        raise UsageError("--site is needed: the plant of the messages.")
    return _ingest_messages(arguments)


def _ingest_messages(arguments: argparse.Namespace) -> int:
    with LakeWriter(Path(arguments.out), site=arguments.site) as writer:
        try:
            with sys.stdin.buffer if str(arguments.messages) == "-" else arguments.messages.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    refused = writer.add_message(line) if line.strip() else None
                    if refused is not None:
                        print(f"kensa: line {number}: {refused}", file=sys.stderr)
        except OSError as error:
            raise OperatorError(f"{arguments.messages} cannot be read: {error.strerror}.") from error
    print(f"{arguments.out}: {writer.rows:,} rows; {writer.refused:,} messages refused")
    return 4 if writer.refused else 0


def _ingest_labels(arguments: argparse.Namespace) -> int:
    if arguments.collected is None:
        raise UsageError("--collected is needed: the location of the labelled frames.")
    found = scan_frames(open_storage(arguments.collected), site=arguments.site)
    if "://" not in arguments.out:
        Path(arguments.out).mkdir(parents=True, exist_ok=True)
    count = refresh_labels(load_labels(arguments.labels), found.frames, open_storage(arguments.out))
    print(f"{arguments.out}: {count:,} labels of {len(found.frames):,} collected frames")
    return 0
