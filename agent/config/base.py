"""What every section of the configuration shares: strictness, names, and how a refused value is shown."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

_SHOWN_CHARACTERS: Final = 80  # of a refused value

# Names end up in MQTT topics and file names, so that they are the same on every transport and disk.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Unit = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Region = tuple[
    Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]
]
PositiveFps = Annotated[float, Field(gt=0.0, le=10_000.0, allow_inf_nan=False)]


class Strict(BaseModel):
    """A section: frozen, every key known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def shown(value: Any) -> str:
    """At most one terminal line of JSON; what lies beyond is not even looked at."""
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(value):
        text += piece
        if len(text) > _SHOWN_CHARACTERS:
            return text[: _SHOWN_CHARACTERS - 3] + "..."
    return text
