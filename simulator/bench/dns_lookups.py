"""Records the DNS names that a running line looks up.

python -m simulator.bench.dns_lookups [--seconds 60]

`kensa run` inspects a folder of images in a network namespace of its own (`simulator.doubles.network.dns_recorder`)
while everything that starts a child process happens: a release is fetched, examined, and tried, and frames are
collected and uploaded. Names that the configuration holds may be looked up (none of them exists); any other name is a
finding. Exit code 1 then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import yaml

from agent.release import manifest as manifests
from pipeline.repository.signing_keys import Expiry, KeyRing
from pipeline.repository.tuf_repository import Repository
from simulator.demos.line.release_scenario import LIMITS, POLICY, copy_with_policy
from simulator.doubles.network.dns_recorder import record_lookups
from simulator.paths import DEFAULT_RELEASE

if TYPE_CHECKING:
    from collections.abc import Sequence

BROKER: Final = "broker.plant.example"  # RFC 2606: exists nowhere
STORAGE: Final = "s3.plant.example"
CAMERA: Final = "camera.plant.example"
CONFIGURED: Final = (BROKER, STORAGE, CAMERA)
_SITE: Final = "plant"
_DESIRED_STATE_S: Final = 5.0  # after the start


@dataclass(frozen=True, slots=True)
class DnsLookups:
    """What one run asked for."""

    configured: dict[str, int]  # by name
    others: dict[str, int]
    examined: bool  # whether a release went through the examining child meanwhile
    output: str


def _is_configured(name: str) -> bool:
    return any(name == host or name.endswith(f".{host}") for host in CONFIGURED)


def _configuration(folder: Path) -> dict[str, Any]:
    return {
        "thing": "lookups",
        "line": "lookups",
        "state_dir": str(folder / "state"),
        "transport": {"kind": "mqtt", "host": BROKER, "port": 1883},
        "inspections": {
            "part": {
                "release": str(DEFAULT_RELEASE),
                "cameras": {
                    "pictures": {"kind": "folder", "path": str(folder / "images"), "fps": 30, "loop": True},
                    "network": {"kind": "mjpeg", "url": f"http://{CAMERA}/stream"},
                },
            }
        },
        "collect": {"site": _SITE, "target": "s3://kensa-frames", "ok_share": 0.05},
        "updates": {
            "repository": str(folder / "repository"),
            "root": str(folder / "keys" / "metadata" / "1.root.json"),
            "site": _SITE,
            "check_hours": 0.1,
            "limits": LIMITS,
        },
    }


def _prepare(folder: Path) -> tuple[Path, str]:
    """Write images, a repository with one release, and the configuration; return that and the release's id."""
    (folder / "images").mkdir()
    noise = np.random.default_rng(0)
    for index in range(8):
        picture = noise.integers(0, 255, (480, 640, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{index}.jpg"), picture)
    (folder / "repository").mkdir()
    ring = KeyRing.create(folder / "keys", repository=str(folder / "repository"), expiry=Expiry())
    repository = Repository(ring)
    repository.create([_SITE], {})
    copy_with_policy(DEFAULT_RELEASE, folder / "release", version="9.0.0", policy=POLICY)
    repository.add(folder / "release", _SITE)
    repository.publish()
    config = folder / "line.yaml"
    config.write_text(yaml.safe_dump(_configuration(folder)), encoding="utf-8")
    return config, f"{manifests.read_manifest(DEFAULT_RELEASE).name}/9.0.0"


def run_lookups(seconds: float) -> DnsLookups:
    """Inspect for `seconds` and return the names that were looked up. Raises KensaError."""
    with tempfile.TemporaryDirectory(prefix="kensa-lookups-") as name:
        config, release = _prepare(Path(name))
        command = [sys.executable, "-m", "simulator.bench.dns_lookups", "--drive", str(config), release, str(seconds)]
        credentials = {"AWS_ENDPOINT_URL": f"http://{STORAGE}", "AWS_REGION": "eu-central-1"}
        credentials |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
        _, asked, output = record_lookups(command, timeout_s=seconds + 60.0, environment={**os.environ, **credentials})
        return DnsLookups(
            configured={name: count for name, count in asked.items() if _is_configured(name)},
            others={name: count for name, count in asked.items() if not _is_configured(name)},
            examined="selftest -> shadow" in output,
            output=output,
        )


def _drive(config: str, release: str, seconds: float) -> int:
    """In the namespace: run the agent, want the release, stop the agent."""
    kensa = [sys.executable, "-c", "import sys; from agent.cli import main; sys.exit(main(sys.argv[1:]))"]
    agent = subprocess.Popen([*kensa, "run", config])
    try:
        time.sleep(min(_DESIRED_STATE_S, seconds / 3))
        subprocess.run([*kensa, "model", "desire", config, release], check=False)
        time.sleep(max(0.0, seconds - _DESIRED_STATE_S))
        subprocess.run([*kensa, "model", "show", config], check=False)
    finally:
        agent.terminate()
        with suppress(subprocess.TimeoutExpired):
            agent.wait(30.0)
        agent.kill()
    return agent.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was looked up; 1 when that is more than was configured."""
    parser = argparse.ArgumentParser(prog="python -m simulator.bench.dns_lookups", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="that the line runs (default 60)")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.drive:
        config, release, seconds = arguments.drive
        return _drive(config, release, float(seconds))
    result = run_lookups(arguments.seconds)
    for title, names in (("configured", result.configured), ("not configured", result.others)):
        for name, count in sorted(names.items()) or [("none", 0)]:
            sys.stdout.write(f"{title}: {name}, {count} look-ups\n")
    return 1 if result.others else 0


if __name__ == "__main__":
    sys.exit(main())
