"""A trained network as plain arrays, which export and quantisation read.

Needs neither torch nor ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from agent.records import Floats


@dataclass(frozen=True, slots=True, eq=False)
class ConvWeights:
    """A square-stride convolution followed by ReLU."""

    weight: Floats  # [out, in, kh, kw]
    bias: Floats  # [out]
    stride: int
    padding: int


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierHead:
    """Maximum and mean over the map, side by side, then linear. Scores are softmax or sigmoid of the logits."""

    weight: Floats  # [classes, 2 * features]: first the maxima's, then the means'
    bias: Floats  # [classes]
    activation: Literal["softmax", "sigmoid"] = "softmax"


@dataclass(frozen=True, slots=True, eq=False)
class EvidenceHead:
    """A 1x1 convolution: channel 0 is "some defect here", channel 1 + i the i-th defect class, ordered as `classes`.

    Evidence is the sigmoid of channel 0. A defect class scores the sigmoid of its channel's maximum over the map, every
    good class one minus the maximum of the evidence.
    """

    weight: Floats  # [1 + defects, features, 1, 1]
    bias: Floats  # [1 + defects]


@dataclass(frozen=True, slots=True, eq=False)
class NetworkWeights:
    """The whole network for inputs [N, height, width, channels] uint8, taken as (byte - 128) / 128."""

    height: int
    width: int
    channels: int
    convs: tuple[ConvWeights, ...]  # the first is the stem: kernel = stride
    head: ClassifierHead | EvidenceHead
    classes: tuple[str, ...]
    defects: frozenset[str]

    @property
    def defect_rows(self) -> tuple[int, ...]:
        """Indices of the defect classes in `classes`."""
        return tuple(i for i, name in enumerate(self.classes) if name in self.defects)
