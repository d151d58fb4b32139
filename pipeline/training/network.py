"""The family of networks: a stem of stride 4, 3x3 convolutions with ReLU, and one of two heads.

Only what stays in int8 and runs fast on a CPU: no depthwise convolution, no residual, no squeeze. Batch normalisation
exists in training only and is folded into the convolutions by `to_weights`. Inputs of `Net` are float [N, C, H, W],
(byte - 128) / 128, which is exact in the quantised graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import nn

from pipeline.training.network_weights import ClassifierHead, ConvWeights, EvidenceHead, NetworkWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.records import Geometry

STEM: Final = 4  # side and stride of the stem, px


@dataclass(frozen=True, slots=True)
class Backbone:
    """Widths and numbers of convolutions of the stages. The stem is the first; later stages halve the map."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]

    @property
    def stride(self) -> int:
        """Input pixels per cell of the last map."""
        return STEM << (len(self.widths) - 1)


# A new width must be a multiple of 16, preferably of 32: other channel counts leave vector lanes empty.
BACKBONES: Final[dict[str, Backbone]] = {
    "tiny": Backbone((32, 48, 64), (1, 1, 1)),
    "slim": Backbone((32, 48, 64), (1, 2, 2)),
    "fine": Backbone((32, 48), (1, 4)),  # cells of 8 px: small defects on a whole part
    "small": Backbone((32, 64, 128), (1, 2, 2)),
    "medium": Backbone((48, 96, 160), (1, 2, 2)),
    "large": Backbone((64, 128, 256), (1, 2, 3)),
}


class Net(nn.Module):
    """Body and head. `forward` gives logits: [N, classes], or the evidence map [N, 1 + defects, h, w]."""

    def __init__(
        self,
        *,
        body: Backbone,
        head: Literal["classifier", "evidence"],
        channels: int,
        classes: Sequence[str],
        defects: frozenset[str],
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ) -> None:
        """Weights come from torch's global generator: seed it first.

        The evidence head's channel 0 is "some defect here"; the others are the defect classes, ordered as `classes`.

        Args:
            body: widths and depths of the stages.
            head: class scores, or an evidence map.
            channels: of the input.
            classes: of the scores, in their order.
            defects: those among the classes.
            activation: of the scores, from logits.
        """
        super().__init__()
        self.body, self.head_kind, self.activation = body, head, activation
        self.classes, self.defects = tuple(classes), defects
        layers: list[nn.Module] = []
        before = channels
        for stage, (width, depth) in enumerate(zip(body.widths, body.depths, strict=True)):
            for number in range(depth):
                if not layers:
                    conv = nn.Conv2d(before, width, STEM, stride=STEM, bias=False)
                else:
                    conv = nn.Conv2d(before, width, 3, stride=2 if stage and not number else 1, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                layers.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU()))
                before = width
        self.layers = nn.Sequential(*layers)
        if head == "classifier":
            self.head: nn.Module = nn.Linear(2 * before, len(self.classes))
        else:
            self.head = nn.Conv2d(before, 1 + len(defects), 1)
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.constant_(self.head.bias, -3.0)  # most cells are good: start near that

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of `pixels` [N, C, H, W]."""
        features = self.layers(pixels)
        if self.head_kind == "evidence":
            return self.head(features)
        return self.head(torch.cat((features.amax((2, 3)), features.mean((2, 3))), 1))

    @torch.no_grad()
    def to_weights(self, geometry: Geometry) -> NetworkWeights:
        """Fold batch normalisation and return the weights as arrays, for export without torch."""
        convs = []
        for conv, norm, _ in self.layers:
            gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
            weight = conv.weight.double() * gain[:, None, None, None]
            bias = norm.bias.double() - norm.running_mean.double() * gain
            convs.append(
                ConvWeights(weight.float().numpy().copy(), bias.float().numpy().copy(), conv.stride[0], conv.padding[0])
            )
        weight, bias = self.head.weight.detach().numpy().copy(), self.head.bias.detach().numpy().copy()
        head = (
            ClassifierHead(weight, bias, self.activation)
            if self.head_kind == "classifier"
            else EvidenceHead(weight, bias)
        )
        return NetworkWeights(
            height=geometry.height,
            width=geometry.width,
            channels=geometry.channels,
            convs=tuple(convs),
            head=head,
            classes=self.classes,
            defects=self.defects,
        )


def to_input(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [N, H, W, C] -> float [N, C, H, W], (byte - 128) / 128, in the layout that convolutions are fastest in."""
    return pixels.permute(0, 3, 1, 2).float().sub_(128.0).div_(128.0).contiguous(memory_format=torch.channels_last)
