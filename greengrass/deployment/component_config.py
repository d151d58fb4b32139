"""Parses a component's configuration: the agent's own, desired releases, and this package's settings.

The component's configuration is the agent's own tree (docs/config.example.yaml) with these differences:

    thing       may be left out: the name of the core device
    state_dir   may be left out: `state` in the component's work folder, which survives updates
    transport   must be left out: Greengrass is the transport
    inspections.<name>.desired: {release: parts/1.1.0, mode: release, share: 0.5}   the release that is to run
    greengrass  this package's own settings, see `GreengrassSettings`
    accessControl belongs to the nucleus and is ignored

Nucleus lite delivers the scalars of a YAML recipe as strings ("0.5", "8", "true") and classic may deliver 8 as 8.0: the
agent's model coerces both, and nothing else is guessed. Only the free options of a plugin camera have no types; a
string there that YAML reads as a number or a boolean is converted.

Promise: `read` returns a whole configuration or raises ConfigError with the path of every refused key; it does no I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import time
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from agent import config as configuration
from agent.config.config_section import redacted, redacted_key
from agent.errors import ConfigError, MessageError
from agent.strict import Strict
from agent.wire.shadow_documents import parse_desired
from greengrass.environment import NUCLEUS_KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.release_records import DesiredRelease

SOURCE: Final = "deployment"  # of a release that the component's configuration requests
_SHIFT: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_MAX_DEPTH: Final = 16  # nucleus lite nests 11 deep at most


def _is_shift(value: str) -> str:
    if not _SHIFT.fullmatch(value):
        msg = f"given {redacted(value)}, expected local times such as 06:00-14:00"
        raise ValueError(msg)
    return value


class GreengrassSettings(Strict):
    """The key `greengrass` of the component's configuration."""

    model_config = ConfigDict(hide_input_in_errors=True)

    # echo: a message counts as delivered when the broker has sent it back; call: when the nucleus has taken it, which
    # may lose what is in flight when a connection ends (docs/decisions).
    confirm: Literal["echo", "call"] = "echo"
    shifts: tuple[Annotated[str, AfterValidator(_is_shift)], ...] = Field(default=(), max_length=16)
    defer_s: float = Field(default=3_600.0, ge=0.0, le=86_400.0)  # longest that a shift or a trial defers an update
    validate_s: float = Field(default=25.0, ge=1.0, le=3_600.0)  # below configurationValidationPolicy's time-out

    def in_shift(self, now: time) -> bool:
        """Whether the local time `now` lies in a shift; one may run past midnight."""
        return any(_is_in_shift(shift, now) for shift in self.shifts)


def _is_in_shift(shift: str, now: time) -> bool:
    begin, end = (time.fromisoformat(part) for part in shift.split("-"))
    return begin <= now < end if begin <= end else (now >= begin or now < end)


@dataclass(frozen=True, slots=True)
class ComponentConfig:
    """A component's configuration. `config.transport` is `none`: the component provides its own."""

    config: configuration.Config
    settings: GreengrassSettings
    desired_releases: Mapping[str, DesiredRelease]  # by inspection


def read(tree: object, *, thing: str | None, work: Path, base: Path, source: str = "configuration") -> ComponentConfig:
    """Read what GetConfiguration returned. Relative paths are relative to `base`. Raises ConfigError.

    `thing` is the core device's name, `work` the component's work folder; `source` names the configuration in errors.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: expected a mapping of keys at the top, got {type(tree).__name__}.")
    if _depth(tree) > _MAX_DEPTH:
        raise ConfigError(f"{source}: nested deeper than {_MAX_DEPTH} levels; this is no configuration of Kensa.")
    rest = {key: value for key, value in tree.items() if key not in NUCLEUS_KEYS}
    complaints: list[str] = []
    settings = _settings(rest.pop("greengrass", None), complaints)
    if "transport" in rest:
        complaints.append("transport: Greengrass is the transport of a component; leave this key out")
    rest["transport"] = {"kind": "none"}
    rest.setdefault("state_dir", str(work / "state"))
    if thing is not None:
        rest.setdefault("thing", thing)
    desired, rest["inspections"] = _split_desired(rest.get("inspections"), complaints)
    if rest["inspections"] is None:
        del rest["inspections"]
    if desired and not rest.get("updates"):
        first = min(desired)
        complaints.append(f"inspections.{first}.desired: needs `updates`, which says where releases come from")
    config: configuration.Config | None = None
    try:
        config = configuration.parse(rest, source=source, base=base)
    except ConfigError as error:
        complaints += [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
    if complaints or config is None:
        raise ConfigError(f"{source} is refused:\n" + "\n".join(f"  {line}" for line in complaints))
    return ComponentConfig(config, settings, desired)


def _settings(given: object, complaints: list[str]) -> GreengrassSettings:
    try:
        return GreengrassSettings() if given is None else GreengrassSettings.model_validate(given)
    except ValidationError as error:
        for problem in error.errors():
            path = ".".join(["greengrass", *map(redacted_key, problem["loc"])])
            if problem["type"] == "extra_forbidden":
                complaints.append(
                    f"{path}: unknown key. Allowed here: {', '.join(sorted(GreengrassSettings.model_fields))}"
                )
            else:
                message = str(problem["msg"]).removeprefix("Value error, ")
                given_text = redacted(problem["input"], key=problem["loc"][-1] if problem["loc"] else None)
                complaints.append(f"{path}: given {given_text}; {message[:1].lower()}{message[1:]}")
        return GreengrassSettings()


def _split_desired(given: object, complaints: list[str]) -> tuple[dict[str, DesiredRelease], object]:
    """Return the desired release of each inspection, and the inspections in the agent's own form."""
    if not isinstance(given, dict):
        return {}, given
    desired: dict[str, DesiredRelease] = {}
    rest: dict[Any, Any] = {}
    for name, members in given.items():
        if not isinstance(members, dict):
            rest[name] = members
            continue
        rest[name] = _typed_options({key: value for key, value in members.items() if key != "desired"})
        if members.get("desired") in (None, "", {}):
            continue
        try:
            desired[name] = _parse_desired(members["desired"])
        except MessageError as error:
            complaints.append(f"inspections.{name}.desired: {error}")
    return desired, rest


def _parse_desired(given: object) -> DesiredRelease:
    """Parse one desired release. Raises MessageError."""
    if not isinstance(given, dict):
        raise MessageError(f"given {given!r:.80}, expected release, mode and share, such as {{release: parts/1.1.0}}.")
    members = {key: _typed(value) if key == "share" else value for key, value in given.items()}
    return replace(parse_desired(members), source=SOURCE)


def _typed_options(inspection: dict[Any, Any]) -> dict[Any, Any]:
    """Give the free options of plugin cameras the types that YAML gives them; the agent's model has none for them."""
    cameras = inspection.get("cameras")
    if not isinstance(cameras, dict):
        return inspection
    typed = {
        name: {**camera, "options": {key: _typed(value) for key, value in camera["options"].items()}}
        if isinstance(camera, dict) and isinstance(camera.get("options"), dict)
        else camera
        for name, camera in cameras.items()
    }
    return {**inspection, "cameras": typed}


def _typed(value: object) -> object:
    """Convert a string that YAML reads as a number or a boolean; return everything else unchanged."""
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    try:
        read_as = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return read_as if isinstance(read_as, bool | int | float) else value


def _depth(value: object) -> int:
    """Return how deep `value` is nested, without recursion."""
    deepest, pending = 0, [(value, 1)]
    while pending:
        item, level = pending.pop()
        deepest = max(deepest, level)
        if level > _MAX_DEPTH:
            return level
        if isinstance(item, dict):
            pending += [(inner, level + 1) for inner in item.values()]
        elif isinstance(item, list):
            pending += [(inner, level + 1) for inner in item]
    return deepest
