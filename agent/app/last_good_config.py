"""Saves and loads the last configuration that an agent ran with, as a fallback after a restart.

Promise: `config.good.json` holds no password. Values in the configuration itself that may be secrets (a camera's
address with a password or a query, a repository's with a user) are written to a separate file beside it, mode 0600, and
`config.good.json` refers to that file. A configuration without such values has no such file; a reference
(`password_file`, `${NAME}`) is saved as a reference. A power cut leaves the old pair or the new one.
"""

from __future__ import annotations

import json
import logging
import os
import re
from typing import TYPE_CHECKING, Any, Final

from agent import config as configuration
from agent.cameras.camera_url import has_secret
from agent.config.config_section import is_secret_key
from agent.durable import replace_durably, sync_directory
from agent.errors import ConfigError, StateDirError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LAST_GOOD_NAME: Final = "config.good.json"
_SECRETS_NAME: Final = "config.good.secrets-{}.json"
_SECRETS_REFERENCE: Final = re.compile(r"\(kept in (config\.good\.secrets-[0-9a-f]{16}\.json)\)")
_NOT_SECRET_KEYS: Final = frozenset({"username", "password_file"})  # a name, and where to read
_log = logging.getLogger(__name__)


def save_last_good(config: configuration.Config) -> None:
    """Save `config` in its state directory as one that an agent ran with. Raises StateDirError."""
    path = config.state_dir / LAST_GOOD_NAME
    secrets_path = config.state_dir / _SECRETS_NAME.format(config.digest()[:16])
    secrets: dict[str, str] = {}

    def hidden(place: str, key: str, value: str) -> str:
        if not _may_be_secret(key, value):
            return value
        secrets[place] = value
        return f"(kept in {secrets_path.name})"

    tree = _map_texts(config.model_dump(mode="json"), hidden)
    try:
        if secrets:
            _write_private(secrets_path, json.dumps(secrets, indent=1).encode())
        replace_durably(path, json.dumps(tree, indent=1).encode())
        for old in config.state_dir.glob(_SECRETS_NAME.format("*") + "*"):
            if not secrets or old != secrets_path:
                old.unlink()
    except OSError as error:
        raise StateDirError(
            f"{path} cannot be written: {error.strerror}. Free disk space, or give this user the right to write there"
        ) from error


def load_last_good(state_dir: Path) -> configuration.Config | None:
    """Return the configuration that an agent last ran with on `state_dir`; None without a readable one."""
    path = state_dir / LAST_GOOD_NAME
    if not path.exists():
        return None
    try:
        tree = json.loads(_read_bounded(path))
        names = set(_SECRETS_REFERENCE.findall(json.dumps(tree)))
        secrets = {
            place: value for name in names for place, value in json.loads(_read_bounded(state_dir / name)).items()
        }
        restored = _map_texts(
            tree, lambda place, _, value: secrets[place] if _SECRETS_REFERENCE.fullmatch(value) else value
        )
        return configuration.parse(restored, source=str(path), base=path.resolve().parent)
    except ConfigError as error:
        _log.warning("the last good configuration cannot be used: %s", error)
    except (OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else "it is damaged"
        _log.warning("the last good configuration in %s cannot be used: %s", state_dir, reason)
    return None


def _may_be_secret(key: str, value: str) -> bool:
    if key in _NOT_SECRET_KEYS:
        return False
    return has_secret(value) if "://" in value else is_secret_key(key) and not value.startswith("${")


def _map_texts(value: Any, change: Callable[[str, str, str], str], place: str = "", key: str = "") -> Any:
    """Return a copy of a JSON tree in which each text is replaced by `change(place, key, text)`."""
    match value:
        case dict():
            return {name: _map_texts(item, change, f"{place}.{name}", name) for name, item in value.items()}
        case list():
            return [_map_texts(item, change, f"{place}.{number}", key) for number, item in enumerate(value)]
        case str():
            return change(place, key, value)
        case _:
            return value


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(configuration.MAX_CONFIG_BYTES + 1)
    if len(data) > configuration.MAX_CONFIG_BYTES:
        raise ValueError("too large")
    return data


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read, even while it is being written."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)  # an existing file would keep its mode
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_directory(path.parent)
