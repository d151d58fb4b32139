"""Small components in a folder, and a simulated nucleus with short time-outs."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from simulator.doubles.network.mqtt_broker import free_port
from simulator.nucleus import Deployment, Nucleus, NucleusBehaviour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from simulator.nucleus.limits import Mode

NAME = "com.example.Cam"
PATIENCE_S = 120.0  # far longer than anything here takes; only a test that fails waits for so long
# A systemd that knows `systemd-notify --stopping`: with an older one a `startup` that comes to its end is RUNNING for a
# moment and then fails, and whether the deployment sees that moment is chance.
QUICK = NucleusBehaviour(restart_s=0.05, kill_after_s=5.0, update_gap_s=0.1, status_s=0.05, systemd=253)
STAYS = "echo started $$\nexec sleep 1000"


@dataclass(frozen=True, slots=True)
class Shop:
    """A folder that a nucleus deploys from."""

    folder: Path

    def offer(
        self,
        version: str,
        lifecycle: Mapping[str, Any],
        *,
        name: str = NAME,
        configuration: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        as_json: bool = False,
        **more: Any,
    ) -> Mapping[str, str]:
        """Write one version of a component; return it as `Deployment.components` wants it."""
        artifacts = [
            {"Uri": f"s3://BUCKET/{name}/{version}/{file}", "Unarchive": "ZIP" if file.endswith(".zip") else "NONE"}
            for file in files or ()
        ]
        recipe = {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentConfiguration": {"DefaultConfiguration": dict(configuration or {})},
            "Manifests": [
                {"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": dict(lifecycle), "Artifacts": artifacts}
            ],
            **more,
        }
        recipes = self.folder / "recipes"
        recipes.mkdir(parents=True, exist_ok=True)
        text = json.dumps(recipe) if as_json else yaml.safe_dump(recipe)
        (recipes / f"{name}-{version}.{'json' if as_json else 'yaml'}").write_text(text, encoding="utf-8")
        for file, content in (files or {}).items():
            path = self.folder / "artifacts" / name / version / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return {name: version}


@dataclass(frozen=True, slots=True)
class Device:
    """A nucleus without a broker, and the folder it deploys from."""

    nucleus: Nucleus
    shop: Shop
    root: Path

    def deploy(self, components: Mapping[str, str], *, local: bool = False, **configuration: Any) -> Any:
        update = {NAME: configuration} if configuration else {}
        return self.nucleus.deploy(
            Deployment(components=components, configuration_update=update, local=local), self.shop.folder, PATIENCE_S
        )

    def work(self, file: str, *, name: str = NAME) -> Path:
        return self.root / "work" / name / file

    def what_happened(self, *, name: str = NAME) -> list[str]:
        """Installs, starts, signals and states in order, without process ids."""
        return [event.what.rstrip("0123456789 ") for event in self.nucleus.events() if event.component == name]


@contextmanager
def device(mode: Mode, folder: Path, *, behaviour: NucleusBehaviour = QUICK) -> Iterator[Device]:
    root = folder / "root"
    with Nucleus(mode, root=root, broker=("127.0.0.1", free_port()), behaviour=behaviour) as nucleus:
        yield Device(nucleus, Shop(folder / "shop"), root)


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.01)
