"""A proposed configuration is accepted or refused with its reason, within the time allowed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import ConfigError, FetchError, ReleaseRefusedError
from agent.timing.clock import SystemClock
from greengrass.deployment import component_config
from greengrass.deployment.config_validation import ConfigurationValidator
from greengrass.ipc.connection import Connection

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from agent.release_records import DesiredRelease
    from greengrass.deployment.component_config import ComponentConfig

DOWN = FetchError("unreachable", "no network")
BAD = ReleaseRefusedError("trust", "bad_signature", "not ours")


def proposed(tree: object) -> ComponentConfig:
    if tree == "bad":
        raise ConfigError("configuration is refused:\n  workers: given 0")
    config = component_config.read(
        {
            "line": "line1",
            "inspections": {
                "top": {
                    "release": "x",
                    "cameras": {"cam": {"kind": "folder", "path": "x"}},
                    "desired": {"release": "parts/1.1.0"},
                }
            },
            "updates": {"repository": "/media/releases", "root": "x", "site": "hall"},
        },
        thing="thing",
        work=Path("/w"),
        base=Path("/b"),
    )
    assert config.desired_releases
    return config


def validator(
    preflight: Callable[[str, DesiredRelease, threading.Event], None], validate_s: float = 30.0
) -> ConfigurationValidator:
    return ConfigurationValidator(
        connection=Connection(socket_path="/nowhere", token="x", clock=SystemClock()),  # noqa: S106 - never connected
        read=proposed,
        preflight=preflight,
        validate_s=lambda: validate_s,
        clock=SystemClock(),
    )


def test_a_good_configuration_is_accepted_after_a_preflight_of_its_release() -> None:
    tested: list[tuple[str, str]] = []
    validate = validator(lambda name, desired, _stop: tested.append((name, desired.release_id))).validate
    assert validate("good") is None
    assert tested == [("top", "parts/1.1.0")]


def raising(error: Exception) -> Callable[[str, DesiredRelease, threading.Event], None]:
    def preflight(_name: str, _desired: DesiredRelease, _stop: threading.Event) -> None:
        raise error

    return preflight


def test_a_refusal_names_the_key_or_the_release_and_the_reason() -> None:
    assert "workers: given 0" in (validator(raising(BAD)).validate("bad") or "")
    assert validator(raising(BAD)).validate("good") == "parts/1.1.0 is refused for top: not ours"
    assert validator(raising(DOWN)).validate("good") == "parts/1.1.0 cannot be fetched or tested now: no network"


def test_a_preflight_that_takes_too_long_is_ended_and_refused() -> None:
    def slow(_name: str, _desired: DesiredRelease, stop: threading.Event) -> None:
        assert stop.wait(30.0)
        raise FetchError("stopped", "stopped")

    assert "in time" in (validator(slow, validate_s=0.05).validate("good") or "")
