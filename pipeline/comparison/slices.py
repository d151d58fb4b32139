"""Divides the images of a data set into slices on which a candidate must not be worse.

An image's attributes are its class; kind, difficulty and surface of simulated parts; and the entries of the data set's
version in `dataset.json` (line, camera, exposure bucket, origin ...). Each value of an attribute is a slice, split into
its defective and its good parts, because defects found must not make up for good parts rejected. Slices with the same
images are one slice with both names; one that holds all images is `all`.

Attributes that a model's own verdict decided (why a frame was kept, which model inspected it) are no slices unless the
policy names them: the champion is never wrong about a defect among the frames that it called defective, so every equal
model loses there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pipeline.dataset_reader import DatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from pipeline.comparison.comparison_result import Outcomes
    from pipeline.dataset_reader import Sample

VERSION_NAME: Final = "dataset.json"
MAX_VERSION_BYTES: Final = 1 << 30
ALL: Final = "all"
_VERDICT_ATTRIBUTES: Final = frozenset({"reason", "model"})
_SAMPLE_ATTRIBUTES: Final = ("kind", "difficulty", "surface")
_MAX_TEXT: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Some of the images."""

    name: str  # such as "all", or "class scratch"
    of: Outcomes
    rows: npt.NDArray[np.int64]  # indices of samples


def read_attributes(root: Path) -> dict[str, dict[str, str]]:
    """The attributes of each image in `dataset.json`, by path; {} without that file. Raises DatasetError."""
    path = root / VERSION_NAME
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            tree = json.loads(file.read(MAX_VERSION_BYTES))
        return {str(entry["path"]): _checked_attributes(entry.get("slices") or {}) for entry in tree["samples"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"{path} is not a data set version: {error!r}. Build it again.") from error


def _checked_attributes(given: Mapping[str, Any]) -> dict[str, str]:
    return {str(key)[:_MAX_TEXT]: str(value)[:_MAX_TEXT] for key, value in given.items() if value not in {None, ""}}


def make_slices(
    samples: Sequence[Sample], attributes: Mapping[str, Mapping[str, str]], protected: Sequence[str] | None
) -> tuple[Slice, ...]:
    """All slices of the samples: the slice of all first, then by key and value.

    `protected` names the keys to use; None: all except those that a verdict decided.
    """
    defect = np.array([s.is_defect for s in samples], np.bool_)
    members: dict[tuple[str, str], list[int]] = {}
    for row, sample in enumerate(samples):
        own = {
            "class": sample.class_name,
            **{key: getattr(sample, key) for key in _SAMPLE_ATTRIBUTES if getattr(sample, key)},
        }
        for key, value in {**own, **attributes.get(sample.name, {})}.items():
            if key not in _VERDICT_ATTRIBUTES if protected is None else key in protected:
                members.setdefault((key, value), []).append(row)
    found: dict[bytes, Slice] = {}
    every = np.arange(len(samples))
    for (key, value), rows in [((ALL, ""), every), *sorted(members.items())]:
        for of, wanted in (("defects", True), ("good", False)):
            chosen = np.asarray(rows, np.int64)
            chosen = chosen[defect[chosen] == wanted]
            if not chosen.size:
                continue
            name, same = f"{key} {value}".strip(), found.get(chosen.tobytes())
            if same is None:
                found[chosen.tobytes()] = Slice(name, of, chosen)  # type: ignore[arg-type]
            elif same.name != ALL:
                found[chosen.tobytes()] = Slice(f"{same.name} = {name}", same.of, chosen)
    return tuple(found.values())
