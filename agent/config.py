"""The agent's one configuration file: a frozen tree, every key known, units in the names.

Unknown keys and wrong values are refused with the key's path, what was given and what is allowed; there is no silent
default for a key that was misspelt. `docs/config.example.yaml` documents every key and is parsed by the tests.
Relative paths are relative to the configuration file.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from agent.errors import ConfigError

MAX_CONFIG_BYTES: Final = 1024 * 1024
MAX_VALUES: Final = 100_000  # with every YAML alias followed: ten lines of aliases can stand for ten thousand million
_SHOWN_CHARACTERS: Final = 80  # of a refused value

# Names end up in MQTT topics and file names, so that they are the same on every transport and disk.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Unit = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Region = tuple[
    Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]
]
PositiveFps = Annotated[float, Field(gt=0.0, le=10_000.0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --- cameras ----------------------------------------------------------------------------------------------------------


class _Camera(_Strict):
    """What every camera kind has."""

    width: int | None = Field(
        default=None, ge=1, le=65_536
    )  # declared size; frames of another size are dropped (`size`)
    height: int | None = Field(default=None, ge=1, le=65_536)
    stall_ms: int = Field(default=2_000, ge=100, le=600_000)  # live cameras: silence for so long is a stall

    @model_validator(mode="after")
    def _size_is_whole(self) -> Self:
        if (self.width is None) != (self.height is None):
            msg = "give both width and height, or neither"
            raise ValueError(msg)
        return self


class FolderCamera(_Camera):
    """A folder of images, or of a `manifest.csv`, as a camera."""

    kind: Literal["folder"]
    path: Path
    split: str | None = None  # only rows of this split, where there is a manifest.csv
    fps: PositiveFps | None = None  # None: as fast as the line takes them
    loop: bool = False


class VideoCamera(_Camera):
    """A video file as a camera."""

    kind: Literal["video"]
    path: Path
    fps: PositiveFps | None = None  # None: the file's own rate
    loop: bool = False


class V4l2Camera(_Camera):
    """A V4L2 or USB camera."""

    kind: Literal["v4l2"]
    device: Annotated[str, StringConstraints(pattern=r"^(/dev/[A-Za-z0-9_/-]+|\d{1,3})$")] = "/dev/video0"
    fps: PositiveFps | None = None
    fourcc: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{4}$")] | None = None


class RtspCamera(_Camera):
    """An RTSP camera."""

    kind: Literal["rtsp"]
    url: Annotated[str, StringConstraints(pattern=r"^rtsps?://", max_length=1024)]
    transport: Literal["tcp", "udp"] = "tcp"


class MjpegCamera(_Camera):
    """Motion JPEG over HTTP."""

    kind: Literal["mjpeg"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://", max_length=1024)]


class PluginCamera(_Camera):
    """A camera kind of another package (entry-point group `kensa.sources`); `simulated` is one."""

    kind: Literal["plugin"]
    source: Name  # the entry point's name
    options: dict[str, Any] = Field(default_factory=dict)  # checked by the plugin


Camera = Annotated[
    FolderCamera | VideoCamera | V4l2Camera | RtspCamera | MjpegCamera | PluginCamera, Field(discriminator="kind")
]


# --- inspections ------------------------------------------------------------------------------------------------------


class Intake(_Strict):
    """What happens when frames come faster than they are judged."""

    policy: Literal["newest", "wait"] = "newest"  # newest: the oldest waiting frame is dropped and counted (`overrun`)
    capacity: int = Field(default=8, ge=1, le=1_024)  # waiting frames a camera


class RolloutLimits(_Strict):
    """What the rollout policy of a signed release may not go beyond: the site has the last word."""

    min_shadow_parts: int = Field(default=300, ge=0, le=1_000_000)  # live parts watched before any share is given
    min_trial_parts: int = Field(default=1_000, ge=0, le=1_000_000)  # parts judged by both before it is committed
    max_disagreement: Unit = 0.03  # of shadow outcomes, from which a release is refused
    max_latency_ratio: float = Field(default=2.0, ge=1.0, le=100.0, allow_inf_nan=False)  # to the running model
    max_extra_memory_bytes: int = Field(default=256 * 1024**2, ge=1024**2, le=1024**4)
    deadline_ms: float = Field(
        default=200.0, gt=0.0, le=60_000.0, allow_inf_nan=False
    )  # due time to decision, in a trial
    shadow_max_fps: float = Field(
        default=30.0, gt=0.0, le=10_000.0, allow_inf_nan=False
    )  # parts a second that it is shown
    max_error_rate: Annotated[float, Field(ge=1e-4, le=0.05, allow_inf_nan=False)] = (
        0.01  # of parts without its judgement, and of late ones, in a trial
    )
    max_e_value: Annotated[float, Field(ge=20.0, le=10_000.0, allow_inf_nan=False)] = (
        1_000.0  # of one-sided disagreement
    )
    max_psi: Annotated[float, Field(ge=0.01, le=1.0, allow_inf_nan=False)] = 0.25  # drift of its scores
    max_psi_window: int = Field(default=5_000, ge=1_000, le=100_000)  # parts before drift is looked at
    max_golden_difference: Unit = 0.1  # of a score on the release's own golden set from its reference
    min_golden_agreement: Unit = 0.98  # share of that set that must be judged as where it was made
    min_golden_recall: Unit = 0.5  # share of that set's labelled parts that must be judged right
    allow_reject_more: bool = True  # whether a release may announce it: then only more parts stop, never fewer
    acceptance_recall: Unit = 1.0  # share of the site's own labelled parts that must be judged as labelled
    max_hours: float = Field(default=24.0, gt=0.0, le=8_760.0, allow_inf_nan=False)  # for shadow and trial together
    probation_s: float = Field(default=600.0, ge=0.0, le=86_400.0)  # the old model stays loaded so long after a commit
    cool_down_s: float = Field(default=600.0, ge=0.0, le=86_400.0)  # after an automatic rollback
    max_rollbacks_per_day: int = Field(default=3, ge=1, le=1_000)  # automatic ones; then a person must act


def _place(repository: str) -> str:
    """Refuse a relative folder: it would be looked for wherever the fetch child happens to run."""
    if not repository.startswith(("/", "http://", "https://", "s3://")):
        msg = (
            f"given {_shown(repository)}; write an absolute path such as /media/releases, or a URL: "
            "http(s)://host/path or s3://bucket/prefix"
        )
        raise ValueError(msg)
    return repository


class Updates(_Strict):
    """Where new releases come from. Without this the release of the configuration is the only one."""

    repository: Annotated[
        str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_place)
    ]  # absolute folder, http(s)://, s3://bucket/prefix
    root: Path  # 1.root.json, the trust anchor, brought to the device by hand or with the component
    site: Name  # whose delegation this device follows
    shadow: bool = (
        True  # follow and report to the named shadow `kensa` over MQTT; else the control socket alone decides
    )
    max_release_bytes: int = Field(default=512 * 1024**2, ge=1024, le=1024**4)
    fetch_timeout_s: float = Field(default=900.0, ge=1.0, le=86_400.0)
    check_hours: float = Field(default=6.0, ge=0.1, le=168.0)  # between two looks at what was taken back
    limits: RolloutLimits = RolloutLimits()


class Inspection(_Strict):
    """Cameras that are judged by one model."""

    release: Path  # a release folder: the factory release where there are updates
    cameras: dict[Name, Camera] = Field(min_length=1, max_length=64)
    roi: Region | None = None  # [x, y, width, height]; goes before the manifest's own
    thresholds: dict[Name, Unit] = Field(default_factory=dict)  # defect class -> score; over the manifest's own
    unsure_band: Unit | None = None  # over the manifest's own
    intake: Intake = Intake()


# --- transport, outbox, the rest --------------------------------------------------------------------------------------


class Tls(_Strict):
    """Mutual TLS towards the broker."""

    ca: Path
    certificate: Path
    key: Path
    alpn: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,64}$")] | None = (
        None  # IoT Core on 443: x-amzn-mqtt-ca
    )

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """All three, for checks."""
        return (self.ca, self.certificate, self.key)


class Mqtt(_Strict):
    """An MQTT broker: mosquitto, AWS IoT Core or any other."""

    kind: Literal["mqtt"]
    host: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    port: int = Field(default=8883, ge=1, le=65_535)
    protocol: Literal["3.1.1", "5"] = "5"
    client_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_:-]{1,128}$")] | None = (
        None  # None: the thing's name
    )
    username: str | None = Field(default=None, max_length=256)
    password_file: Path | None = None
    tls: Tls | None = None
    keepalive_s: int = Field(default=30, ge=5, le=1_200)
    max_in_flight: int = Field(default=32, ge=1, le=100)  # IoT Core allows 100 unacknowledged publishes

    @model_validator(mode="after")
    def _a_password_has_a_user(self) -> Self:
        if self.password_file is not None and self.username is None:
            msg = "password_file is given without username"
            raise ValueError(msg)
        return self


class NoTransport(_Strict):
    """Verdicts stay in the local outbox: for trying things out."""

    kind: Literal["none"]


class Outbox(_Strict):
    """How much the device keeps while the broker is away, and after."""

    max_bytes: int = Field(
        default=512 * 1024 * 1024, ge=1024 * 1024, le=1024**4
    )  # oldest ok verdicts go first beyond this
    commit_ms: int = Field(default=250, ge=10, le=10_000)  # longest wait of an ok verdict before it is on disk
    history_days: float = Field(default=7.0, gt=0.0, le=3_650.0)
    history_bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024, le=1024**4)


class Keep(_Strict):
    """Frames of defect and unsure parts that `kensa explain` shows."""

    frames: int = Field(default=500, ge=0, le=1_000_000)  # newest kept; 0 keeps none
    max_bytes: int = Field(default=2 * 1024**3, ge=1024 * 1024, le=1024**4)
    max_per_s: float = Field(default=1.0, gt=0.0, le=1_000.0, allow_inf_nan=False)  # sustained; bursts of 10
    jpeg_quality: int = Field(default=95, ge=50, le=100)


class Metrics(_Strict):
    """Prometheus endpoint on 127.0.0.1."""

    port: int = Field(ge=0, le=65_535)  # 0: any free port, named in `kensa doctor` and the log


class Config(_Strict):
    """The whole file."""

    thing: Name  # the IoT thing name: first part of every topic
    line: Name
    state_dir: Path
    inspections: dict[Name, Inspection] = Field(min_length=1, max_length=64)
    transport: Annotated[Mqtt | NoTransport, Field(discriminator="kind")]
    outbox: Outbox = Outbox()
    keep: Keep = Keep()
    updates: Updates | None = None
    metrics: Metrics | None = None
    heartbeat_s: float = Field(default=10.0, ge=0.5, le=3_600.0)
    workers: int | None = Field(default=None, ge=1, le=64)  # None: one a core that this process may use
    max_batch: int = Field(default=8, ge=1, le=256)  # most model inputs (frames, or tiles) judged at once
    drain_s: float = Field(default=5.0, ge=0.1, le=300.0)  # bound on finishing up at stop

    @model_validator(mode="after")
    def _camera_names_are_unique(self) -> Self:
        owner: dict[str, str] = {}
        for name, inspection in self.inspections.items():
            for camera in inspection.cameras:
                if camera in owner:
                    msg = f"camera {camera!r} is in inspections {owner[camera]!r} and {name!r}; they must differ"
                    raise ValueError(msg)
                owner[camera] = name
        return self

    def digest(self) -> str:
        """SHA-256 (hex) of the whole configuration; passwords and certificates count as paths, not contents."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    def worker_count(self) -> int:
        """Workers to start: as configured, else one for each core of this process's affinity mask."""
        return self.workers or len(os.sched_getaffinity(0))


# --- reading ----------------------------------------------------------------------------------------------------------


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _members(annotation: Any) -> tuple[Any, ...]:
    """Members of a union (or of Annotated), else of a single type."""
    if getattr(annotation, "__origin__", None) is dict or isinstance(annotation, type):
        return (annotation,)
    return tuple(a for a in getattr(annotation, "__args__", ()) if a is not type(None))


def _tag(member: Any) -> str | None:
    """Value of the discriminator `kind` by which pydantic names this member of a union in its paths."""
    kind = member.model_fields.get("kind") if isinstance(member, type) and issubclass(member, BaseModel) else None
    return None if kind is None else str(get_args(kind.annotation)[0])


def _follow(path: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """Return `path` as the file has it (without the unions' tags) and the type that holds its last key."""
    shown: list[str] = []
    current: Any = Config
    holder: Any = None
    for part in path:
        options = [m for outer in _members(current) for m in (_members(outer) if outer is not current else (outer,))]
        if tagged := [m for m in options if len(options) > 1 and _tag(m) == part]:
            current = tagged[0]
            continue
        holder = options[0] if len(options) == 1 else None
        shown.append(str(part))
        if isinstance(holder, type) and issubclass(holder, BaseModel):
            field = holder.model_fields.get(str(part))
            current = None if field is None else field.annotation
        else:
            arguments = getattr(holder, "__args__", ())
            current = arguments[-1] if arguments else None
    return shown, holder


def _allowed_keys(holder: Any) -> list[str]:
    return sorted(holder.model_fields) if isinstance(holder, type) and issubclass(holder, BaseModel) else []


def _shown(value: Any) -> str:
    """At most one terminal line of JSON; what lies beyond is not even looked at."""
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(value):
        text += piece
        if len(text) > _SHOWN_CHARACTERS:
            return text[: _SHOWN_CHARACTERS - 3] + "..."
    return text


def _explain(error: Any) -> str:
    """One line for one of pydantic's complaints."""
    shown, holder = _follow(error["loc"])
    path = ".".join(shown) or "(whole file)"
    kind: str = error["type"]
    if kind == "extra_forbidden":
        key, allowed = shown[-1], _allowed_keys(holder)
        near = difflib.get_close_matches(key, allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"{path}: unknown key.{hint} Allowed here: {', '.join(allowed)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    given, context = _shown(error["input"]), error.get("ctx", {})
    said = {
        "missing": ": is required",
        "value_error": f": {message}",
        "union_tag_invalid": f".kind: given {_shown(context.get('tag'))}, allowed: {context.get('expected_tags')}",
        "union_tag_not_found": ".kind: is required",
        "path_type": f": given {given}, expected a path",
        "string_pattern_mismatch": f": given {given}, must match {context.get('pattern')}",
    }
    return path + said.get(kind, f": given {given}; {message[0].lower()}{message[1:]}")


def _absolute(config: Config, base: Path) -> Config:
    """Resolve every relative path against the file's folder."""

    def walk(value: Any) -> Any:
        if isinstance(value, Path):
            return base / value
        if isinstance(value, BaseModel):
            return value.model_copy(update={name: walk(getattr(value, name)) for name in type(value).model_fields})
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        return value

    resolved: Config = walk(config)
    return resolved


def parse(tree: object, *, source: str, base: Path) -> Config:
    """Validate an already parsed tree; relative paths are resolved against `base`. Raises ConfigError."""
    if not isinstance(tree, dict):
        msg = (
            f"{source}: expected a mapping of keys at the top, got {type(tree).__name__}. See docs/config.example.yaml"
        )
        raise ConfigError(msg)
    try:
        return _absolute(Config.model_validate(tree), base)
    except ValidationError as error:
        lines = [_explain(e) for e in error.errors()]
        raise ConfigError(f"{source} is refused:\n" + "\n".join(f"  {line}" for line in lines)) from error


def load(path: Path) -> Config:
    """Read and validate a YAML file. Raises ConfigError naming the file, the key, what was given, what is allowed."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        msg = f"{path}: {error.strerror}. Start from docs/config.example.yaml"
        raise ConfigError(msg) from error
    if len(data) > MAX_CONFIG_BYTES:
        msg = f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is no configuration file"
        raise ConfigError(msg)
    try:
        tree = yaml.load(data, Loader=_UniqueKeyLoader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        msg = f"{path} is not valid YAML: {error}"
        raise ConfigError(msg) from error
    _check_size(tree, path)
    return parse(tree, source=str(path), base=path.resolve().parent)


def _check_size(tree: object, path: Path) -> None:
    """Refuse a tree that is far larger than its text. Raises ConfigError."""
    waiting, seen = [tree], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            msg = f"{path}: holds more than {MAX_VALUES:,} values; check its aliases (*name)"
            raise ConfigError(msg)
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
