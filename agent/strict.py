"""The base of every pydantic model here: immutable, and unknown keys are errors.

Subclasses add to `model_config` what else they need (strict types on the wire, no input in the text of errors).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Frozen; refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
