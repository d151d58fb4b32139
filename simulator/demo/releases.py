"""The demo's second story: a better model arrives while the line runs, and then one that fails on it.

Everything is real: a repository that this process signs, a web server in front of it, a wish in the named shadow (or
through the control socket where the broker has none), and the agent's own gates. Only the policy is shortened, and the
screen says so. The bad release is right on every picture that it is examined with, and takes good parts for defective
once the lamp has faded: nothing but live parts can show that.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from agent.errors import KensaError
from agent.model import manifest as manifests
from agent.preprocess import Preprocessor
from pipeline.repository.keys import Expiry, KeyRing
from pipeline.repository.repository import Repository
from simulator import bad_models
from simulator.line import plan
from simulator.release_server import ReleaseServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.records import Box, Pixels
    from simulator.line import SimulatedLine

SITE: Final = "demo-site"
BETTER_AT: Final = 0.07  # of the planned time: published
BAD_AT: Final = 0.48
BETTER: Final = "1.1.0"
BAD: Final = "1.2.0"
POLICY: Final[dict[str, Any]] = {
    "shadow_parts": 300,
    "trial": [{"share": 0.05, "parts": 60}, {"share": 0.25, "parts": 250}, {"share": 1.0, "parts": 900}],
    "disagreement": {"good": 0.02, "bad": 0.08},  # a better model may differ: it finds what its predecessor misses
    "may_reject_more": True,
    "psi_window": 100_000,  # more parts than the demo has: a pool of 32 pictures has no distribution
}
LONG_TRIAL: Final = [{"share": 0.05, "parts": 60}, {"share": 0.25, "parts": 250}, {"share": 1.0, "parts": 100_000}]
LIMITS: Final[dict[str, Any]] = {  # of the site, in its configuration
    "min_shadow_parts": 300,
    "min_trial_parts": 600,
    "max_disagreement": 0.08,
    "max_psi_window": 100_000,  # see `psi_window` above
    "shadow_max_fps": 60.0,
    "deadline_ms": 500.0,  # a laptop that does other things too
    "probation_s": 10.0,
}
POLICY_TEXT: Final = (
    "shortened for the demo: shadow of 300 parts, trial on 5, 25, 100 % of the parts, 1,210 in all; "
    "8 % disagreement is too much"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """One release that the story brought."""

    version: str
    what: str  # in a few words
    at_s: float  # since the line started


class ReleaseStory:
    """Keeps the repository, serves it, and publishes when the time has come. Use as a context manager."""

    def __init__(
        self,
        *,
        folder: Path,
        better: Path,
        inspection: str,
        desire: Callable[[str], None],
        seconds: float,
    ) -> None:
        """`desire(release_id)` tells the agent; it is called on a thread of its own, like everything slow here."""
        self._folder = folder
        self._better = better
        self._desire = desire
        self._seconds = seconds
        self._stack = ExitStack()
        self._thread: threading.Thread | None = None
        self._due = [(BETTER_AT, BETTER, "a better model"), (BAD_AT, BAD, "a model that the fading lamp misleads")]
        self.inspection = inspection
        self.name = manifests.read(better).name
        self.published: list[Published] = []
        self.problem: str | None = None

    @property
    def root(self) -> Path:
        """1.root.json, which goes to the device by hand."""
        return self._folder / "keys" / "metadata" / "1.root.json"

    def __enter__(self) -> Self:
        """Make keys and repository, and serve it. Raises a KensaError."""
        shutil.rmtree(self._folder, ignore_errors=True)
        repository, keys = self._folder / "repository", self._folder / "keys"
        repository.mkdir(parents=True)
        ring = KeyRing.create(keys, repository=str(repository.resolve()), expiry=Expiry())
        self._repository = Repository(ring)
        self._repository.create([SITE], {})
        with ExitStack() as stack:
            self._server = stack.enter_context(ReleaseServer(repository))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Let a publication end, and stop serving."""
        if self._thread is not None:
            self._thread.join()
        self._stack.close()

    @property
    def url(self) -> str:
        """Where devices find the repository."""
        return self._server.url

    def prepare(self, line: SimulatedLine, roi: Box) -> None:
        """Write both releases; the bad one learns by heart which pictures of `line` it will fail on."""
        releases = self._folder / "releases"
        with_policy(self._better, releases / BETTER, version=BETTER, policy=POLICY)
        dark = _dark_pictures(line, roi, self._better)
        bad = bad_models.make_failing_on(dark, self._better, releases / BAD, version=BAD)
        with_policy(bad, bad, version=BAD, policy=POLICY | {"trial": LONG_TRIAL})

    def update(self, elapsed_s: float) -> None:
        """Publish what is due."""
        busy = self._thread is not None and self._thread.is_alive()
        if self._due and not busy and elapsed_s >= self._due[0][0] * self._seconds:
            _, version, what = self._due.pop(0)
            self.published.append(Published(version, what, elapsed_s))
            self._thread = threading.Thread(target=self._publish, args=(version,), name="publisher", daemon=True)
            self._thread.start()

    def _publish(self, version: str) -> None:
        try:
            self._repository.add(self._folder / "releases" / version, SITE)
            self._repository.publish()
            self._desire(f"{self.name}/{version}")
        except KensaError as error:
            _log.exception("release %s was not published", version)
            self.problem = f"release {version} was not published: {error}"


def with_policy(source: Path, out: Path, *, version: str, policy: dict[str, Any]) -> None:
    """Copy the release with another version and rollout policy."""
    tree = json.loads((source / manifests.MANIFEST_NAME).read_bytes())
    tree |= {"version": version, "rollout": policy}
    data = manifests.parse(json.dumps(tree).encode()).to_json()
    out.mkdir(parents=True, exist_ok=True)
    for name in (manifests.MODEL_NAME, manifests.GOLDEN_NAME):
        if source != out:
            shutil.copyfile(source / name, out / name)
    (out / manifests.MANIFEST_NAME).write_bytes(data)


def _dark_pictures(line: SimulatedLine, roi: Box, release: Path) -> Pixels:
    """Inputs [N, H, W, C] of the line's good parts under the lamp at its weakest."""
    geometry = manifests.read(release).geometry.to_record()
    preprocessor = Preprocessor(geometry, roi=roi)
    levels = plan.pool_levels(line.config)
    inputs = []
    for number in range(0, line.config.pool, levels):  # the first level is the darkest
        if plan.recipe_of(line.config, number).kind == "none":
            out = np.empty((1, geometry.height, geometry.width, geometry.channels), np.uint8)
            preprocessor.into(line.render_picture(number), out)
            inputs.append(out)
    return np.concatenate(inputs)
