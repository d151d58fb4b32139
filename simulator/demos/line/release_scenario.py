"""The demo's second story: a better model arrives while the line runs, and then one that fails on it.

Everything is real: a repository that this process signs, a web server in front of it, a wish in the named shadow (or
through the control socket where the broker has none), and the agent's own gates. Only the policy is shortened, and the
screen says so. The light is steady while the better release is compared with its predecessor. The bad release is right
on every image that it is examined with, all taken in good light, and takes good parts for defective once the lamp
fades: nothing but live parts can show that.
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
from agent.preprocess import Preprocessor
from agent.release import manifest as manifests
from pipeline.repository.signing_keys import Expiry, KeyRing
from pipeline.repository.tuf_repository import Repository
from simulator.doubles.lifecycle import bad_models
from simulator.doubles.servers.release_server import ReleaseServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.records import Box
    from simulator.line import SimulatedLine

SITE: Final = "demo-site"
BETTER_AT: Final = 0.07  # of the planned time: published
BAD_AT: Final = 0.48
LATEST_AT: Final = 0.58  # until then the bad release waits for the better one's end
FADE_AT: Final = 0.64  # of the planned time: the lamp begins to fade, when the bad release has come to its trial
FADE_SHARE: Final = 0.15
FADE: Final = 0.14  # of the light; both good releases classify as well as before (docs/default-release.md)
_SAMPLED: Final = 40  # parts in good light, and as many in weak light, by which the bad release is made
BETTER_VERSION: Final = "1.1.0"
BAD_VERSION: Final = "1.2.0"
# Of the better release. With the bundled 0.91 it lets half as many defects escape as its predecessor, but rejects more
# good parts on the demo's line. 0.94 was chosen on 2,000 parts of another line (seed 4242, every part rendered), where
# it rejects 3 of 992 good parts and its predecessor 9; escapes are 8.4 % there, the predecessor's 14.7 %.
THRESHOLD: Final = 0.94
POLICY: Final[dict[str, Any]] = {
    "shadow_parts": 300,
    "trial": [{"share": 0.05, "parts": 60}, {"share": 0.25, "parts": 250}, {"share": 1.0, "parts": 900}],
    "disagreement": {"good": 0.02, "bad": 0.08},  # a better model may differ: it finds what its predecessor misses
    "may_reject_more": True,
    "psi_window": 100_000,  # more parts than the demo has: the better release's scores are distributed otherwise
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
class PublishedRelease:
    """One release that the story brought."""

    version: str
    what: str  # in a few words
    at_s: float  # since the line started


class ReleaseScenario:
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
        self._set_desired = desire
        self._seconds = seconds
        self._stack = ExitStack()
        self._thread: threading.Thread | None = None
        self._due = [
            (BETTER_AT, BETTER_VERSION, "a better model"),
            (BAD_AT, BAD_VERSION, "a model that the fading lamp misleads"),
        ]
        self.inspection = inspection
        self.name = manifests.read_manifest(better).name
        self.published: list[PublishedRelease] = []
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
    def versions(self) -> dict[str, str]:
        """Versions by their model's digest, of all releases that the story may bring."""
        found = (
            manifests.read_manifest(self._folder / "releases" / version) for version in (BETTER_VERSION, BAD_VERSION)
        )
        return {manifest.files[manifests.MODEL_NAME].sha256: manifest.version for manifest in found}

    @property
    def url(self) -> str:
        """Where devices find the repository."""
        return self._server.url

    def prepare(self, line: SimulatedLine, roi: Box) -> None:
        """Write both releases; the bad one is misled by light between the best and the worst of `line`."""
        releases = self._folder / "releases"
        copy_with_policy(
            self._better, releases / BETTER_VERSION, version=BETTER_VERSION, policy=POLICY, threshold=THRESHOLD
        )
        grey = _background_grey_threshold(line, roi, self._better)
        bad = bad_models.write_failing_in_dim_light(
            releases / BETTER_VERSION, releases / BAD_VERSION, version=BAD_VERSION, grey=grey
        )
        copy_with_policy(bad, bad, version=BAD_VERSION, policy=POLICY | {"trial": LONG_TRIAL})

    def update(self, elapsed_s: float, *, undecided: bool) -> None:
        """Publish what is due; while the one before is `undecided`, on a slow machine, it waits for a while."""
        busy = self._thread is not None and self._thread.is_alive()
        busy = busy or (undecided and elapsed_s < LATEST_AT * self._seconds)
        if self._due and not busy and elapsed_s >= self._due[0][0] * self._seconds:
            _, version, what = self._due.pop(0)
            self.published.append(PublishedRelease(version, what, elapsed_s))
            self._thread = threading.Thread(target=self._publish, args=(version,), name="publisher", daemon=True)
            self._thread.start()

    def _publish(self, version: str) -> None:
        try:
            self._repository.add(self._folder / "releases" / version, SITE)
            self._repository.publish()
            self._set_desired(f"{self.name}/{version}")
        except KensaError as error:
            _log.exception("release %s was not published", version)
            self.problem = f"release {version} was not published: {error}"


def copy_with_policy(
    source: Path, out: Path, *, version: str, policy: dict[str, Any], threshold: float | None = None
) -> None:
    """Copy the release with another version and rollout policy, and with one threshold for all defects where given."""
    tree = json.loads((source / manifests.MANIFEST_NAME).read_bytes())
    tree |= {"version": version, "rollout": policy}
    if threshold is not None:
        tree["decision"]["thresholds"] = dict.fromkeys(tree["decision"]["thresholds"], threshold)
        tree["lineage"]["parameters"]["threshold"] = threshold
    data = manifests.parse_manifest(json.dumps(tree).encode()).to_json()
    out.mkdir(parents=True, exist_ok=True)
    for name in (manifests.MODEL_NAME, manifests.GOLDEN_NAME):
        if source != out:
            shutil.copyfile(source / name, out / name)
    (out / manifests.MANIFEST_NAME).write_bytes(data)


def _background_grey_threshold(line: SimulatedLine, roi: Box, release: Path) -> float:
    """Return the grey level of the belt that lies between the darkest in good light and the brightest in weak light."""
    geometry = manifests.read_manifest(release).geometry.to_record()
    preprocessor = Preprocessor(geometry, roi=roi)
    weak_from = line.config.drift_after_parts + line.config.drift_period_parts
    inputs = np.empty((2 * _SAMPLED, geometry.height, geometry.width, geometry.channels), np.uint8)
    for number, part in enumerate([*range(_SAMPLED), *range(weak_from, weak_from + _SAMPLED)]):
        preprocessor.write_to(line.render(part), inputs[number : number + 1])
    grey = bad_models.mean_border_grey(inputs)
    return float(grey[:_SAMPLED].min() + grey[_SAMPLED:].max()) / 2.0
