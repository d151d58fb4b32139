"""Every error that Kensa raises on purpose, grouped by who must act.

A vendor's exception never leaves its adapter: it is translated to one of these, whose text names the failure and the
remedy. Any other exception is a bug and may show a traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class KensaError(Exception):
    """Root of the hierarchy. `str(error)` is one or more whole sentences for a person: what failed, and what to do."""

    exit_code = 1


# --- the operator must act: configuration, disk, camera --------------------------------------------------------------


class OperatorError(KensaError):
    """Something at the site is wrong and a person there can fix it."""

    exit_code = 2


class ConfigError(OperatorError):
    """The configuration is refused: the text gives each key's path, the given and the allowed value."""


class RestartNeededError(ConfigError):
    """The configuration is good, but a running agent cannot apply all of it; nothing was changed."""

    exit_code = 5  # the running agent refuses it

    def __init__(self, paths: Sequence[str]) -> None:
        """`paths` are the keys that only a restart can change."""
        lines = "\n".join(f"  {path}: needs a restart" for path in paths)
        super().__init__(f"nothing was changed:\n{lines}")
        self.paths = tuple(paths)


class StateDirError(OperatorError):
    """The state directory cannot be used: missing rights, another agent holds its lock, or the disk is full."""


class ThreadLimitError(OperatorError):
    """The machine allows no more threads; callers that can wait retry."""


class CameraError(OperatorError):
    """A camera cannot be opened or stopped delivering; the capture thread retries with back-off."""


class FrameError(KensaError):
    """One frame cannot be inspected (corrupt, wrong size, wrong channels); it becomes a counted drop, never a crash."""

    def __init__(self, reason: str, detail: str, *, name: str | None = None, part_id: str | None = None) -> None:
        """`reason` is a `records.DropReason` value; `detail` describes the problem and the expectation.

        `name` is the source's name of the image (a path inside its folder), where it has one; `part_id` is the part
        in the image, where the source knows it: such a part must get a verdict, `unknown`.
        """
        super().__init__(f"{reason}: {detail}" if name is None else f"{reason}: {name}: {detail}")
        self.reason = reason
        self.detail = detail
        self.name = name
        self.part_id = part_id


class SourceEndedError(KensaError):
    """A finite source (folder, video file) has no more frames; not a fault."""


# --- the cloud side must act: the release is refused ------------------------------------------------------------------


class ReleaseError(KensaError):
    """A release is refused; the line keeps its last good model."""

    exit_code = 3


class ManifestError(ReleaseError):
    """The manifest cannot be parsed or breaks the contract."""


class IntegrityError(ReleaseError):
    """A file's length or digest is not what the manifest says."""


class ContractError(ReleaseError):
    """The model's inputs, outputs or graph break the model contract."""


class SelfTestError(ReleaseError):
    """The model loads but does not give the golden answers on this machine."""


class ReleaseRefusedError(ReleaseError):
    """A gate of the lifecycle refuses a release for good: the same bytes will not be tried again."""

    def __init__(
        self,
        gate: str,
        reason: str,
        text: str,
        *,
        figures: Mapping[str, float] | None = None,
        limits: Mapping[str, float] | None = None,
        digest: str | None = None,
    ) -> None:
        """`gate` is a value of `release_records.Gate`, `reason` a stable snake_case code; see `Refusal` there.

        `digest` (of `ReleaseRef`) names the release where it is refused before it could be fetched whole.
        """
        super().__init__(text)
        self.gate = gate
        self.reason = reason
        self.figures = dict(figures or {})
        self.limits = dict(limits or {})
        self.digest = digest


# --- retried by Kensa itself ------------------------------------------------------------------------------------------


class TransportError(KensaError):
    """The message could not be passed to the broker now; the outbox keeps it and the sender retries."""

    exit_code = 4


class FetchError(KensaError):
    """A release could not be fetched now: no network, no space, a slow server. It is retried; nothing was activated."""

    exit_code = 4

    def __init__(self, reason: str, text: str) -> None:
        """`reason` is a stable snake_case code."""
        super().__init__(text)
        self.reason = reason


class UploadError(KensaError):
    """A collected frame could not be uploaded now; it stays on this disk and is retried."""

    exit_code = 4

    def __init__(self, reason: str, text: str) -> None:
        """`reason` is a stable snake_case code."""
        super().__init__(text)
        self.reason = reason


class OutboxError(KensaError):
    """The outbox could not commit; the text names the file and the remedy."""

    exit_code = 2


class MessageError(KensaError):
    """A message that arrived, or a name or number that should go into one, breaks the wire format."""

    exit_code = 4


class InferenceError(KensaError):
    """The runtime failed on a batch; its frames get `unknown` verdicts."""


class LifecycleError(KensaError):
    """The model lifecycle cannot do this in its present state; the text names what it can do."""

    exit_code = 5


class IllegalTransitionError(KensaError):
    """A bug: an event that is illegal in the present state. Nothing was changed."""


class InternalError(KensaError):
    """A bug ended a thread that the agent cannot do without, and so the agent; its trace is in the log."""

    exit_code = 70  # sysexits.h EX_SOFTWARE


# --- commands ---------------------------------------------------------------------------------------------------------


class UsageError(KensaError):
    """A command was called with wrong arguments."""

    exit_code = 64  # sysexits.h EX_USAGE


class MissingExtraError(OperatorError):
    """A command or camera kind needs a package that is not installed; the text names the extra to install."""


class ControlError(KensaError):
    """The control socket refused a request, or no agent listens on it."""

    exit_code = 5
