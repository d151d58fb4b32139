"""Refusals that the lifecycle itself words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.errors import IntegrityError, ReleaseRefusedError
from agent.release_records import Gate, Refusal

if TYPE_CHECKING:
    from agent.errors import ReleaseError
    from agent.release.installed_release import InstalledRelease


def make_refusal(gate: Gate, reason: str, text: str, **figures: float) -> Refusal:
    """Return a refusal without limits."""
    return Refusal(gate, reason, text, figures)


def refusal_from(error: ReleaseError) -> Refusal:
    """Return the refusal of a release that could not be read, tested or loaded."""
    if isinstance(error, ReleaseRefusedError):
        return Refusal(Gate(error.gate), error.reason, str(error), error.figures, error.limits)
    if isinstance(error, IntegrityError):
        return make_refusal(Gate.FETCH, "changed_on_disk", str(error))
    return make_refusal(Gate.CONTRACT, "cannot_be_loaded", str(error))


def revocation_refusal(installed: InstalledRelease) -> Refusal:
    """Return the refusal of a release that its publisher revoked."""
    text = f"{installed.ref.release_id} was revoked by its publisher. Publish a new release."
    return make_refusal(Gate.REVOKED, "revoked_by_publisher", text)
