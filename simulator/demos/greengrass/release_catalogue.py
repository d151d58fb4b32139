"""The releases that the demo deploys: a signed, served repository, and one inside a component.

The better model comes by three ways under three versions, and a damaged one by the first. Everything is published
before the start: what a device may run is decided by deployments and the shadow, not by what lies in a repository.
"""

from __future__ import annotations

import datetime as dt
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from agent.release import manifest as manifests
from greengrass.packaging import contents
from pipeline.repository.signing_keys import Expiry, KeyRing
from pipeline.repository.tuf_repository import Repository
from simulator.demos.line.release_scenario import copy_with_policy
from simulator.doubles.lifecycle import bad_models
from simulator.doubles.servers.release_server import ReleaseServer

if TYPE_CHECKING:
    from pathlib import Path

    from greengrass.packaging.archive import ArchiveEntry

DeliveryMethod = Literal["deployment", "shadow", "component"]
ExpectedOutcome = Literal["serving", "refused"]

SITE: Final = "demo-site"
POLICY: Final[dict[str, Any]] = {
    "shadow_parts": 90,
    "shadow_rejects": 1,
    "trial": [{"share": 0.5, "parts": 45}, {"share": 1.0, "parts": 75}],
    "disagreement": {"good": 0.05, "bad": 0.2},  # a better model may differ, and 64 images are few to differ on
    "errors": {"good": 0.01, "bad": 0.05},
    "deadlines": {"good": 0.01, "bad": 0.05},
    "may_reject_more": True,
    "psi_window": 100_000,  # more parts than the demo has: a pool of 32 images has no distribution
}
LIMITS: Final[dict[str, str]] = {  # of the site; as text, as in a recipe
    "min_shadow_parts": "90",
    "min_trial_parts": "120",
    "max_disagreement": "0.2",
    "max_error_rate": "0.05",
    "max_psi_window": "100000",
    "shadow_max_fps": "60",
    "deadline_ms": "1000",  # a laptop that does other things too
    "max_latency_ratio": "4",
    "probation_s": "0",
}
POLICY_TEXT: Final = (
    "shortened for the demo: shadow of 90 parts, trial of 120 (50, then 100 % of the parts); "
    "20 % disagreement is too much"
)


@dataclass(frozen=True, slots=True)
class OfferedRelease:
    """One release, how it comes to the device, and how that has to end."""

    method: DeliveryMethod
    version: str
    what: str  # in a few words
    expected: ExpectedOutcome


_BY_DEPLOYMENT: Final = OfferedRelease("deployment", "1.1.0", "a better model", "serving")
_DAMAGED: Final = OfferedRelease("deployment", "1.2.0", "a damaged model", "refused")
_BY_SHADOW: Final = OfferedRelease("shadow", "1.3.0", "the better model again", "serving")
_BY_COMPONENT: Final = OfferedRelease("component", "1.4.0", "the same once more", "serving")
_LONG_S: Final = 60.0
_SHORT_S: Final = 20.0


def plan_offers(seconds: float, *, has_shadows: bool) -> tuple[OfferedRelease, ...]:
    """Return what a demo of `seconds` has time for."""
    offers: tuple[OfferedRelease, ...] = (_BY_DEPLOYMENT,)
    if seconds >= _SHORT_S:
        offers = (_BY_DEPLOYMENT, _BY_SHADOW)
    if seconds >= _LONG_S:
        offers = (_BY_DEPLOYMENT, _DAMAGED, _BY_SHADOW, _BY_COMPONENT)
    return tuple(offer for offer in offers if has_shadows or offer.method != "shadow")


class ReleaseCatalogue:
    """Keys, repository and server. Use as a context manager."""

    def __init__(self, *, folder: Path, better: Path, offers: tuple[OfferedRelease, ...]) -> None:
        """`folder` becomes the cloud's; `better` is the model that is offered."""
        self._folder = folder
        self._better = better
        self._offers = offers
        self._stack = ExitStack()
        self.name = manifests.read_manifest(better).name

    def __enter__(self) -> Self:
        """Make keys and repository, publish, and serve. Raises a KensaError."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._repository.mkdir(parents=True)
        ring = KeyRing.create(self._folder / "keys", repository=str(self._repository.resolve()), expiry=Expiry())
        repository = Repository(ring)
        repository.create([SITE], {})
        for offer in self._offers:
            repository.add(self._written(offer), SITE)
        repository.publish()
        with ExitStack() as stack:
            self._server = stack.enter_context(ReleaseServer(self._repository))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self._stack.close()

    @property
    def url(self) -> str:
        """Where devices find the repository."""
        return self._server.url

    def id_of(self, offer: OfferedRelease) -> str:
        """Return name/version."""
        return f"{self.name}/{offer.version}"

    def trust_anchor(self) -> ArchiveEntry:
        """Return 1.root.json, which travels in the inspector's archive."""
        return contents.trust_anchor(self._folder / "keys" / "metadata" / "1.root.json")

    def component_files(self, offer: OfferedRelease) -> list[ArchiveEntry]:
        """Return what the archive of com.kensa.Model holds of a release."""
        now = dt.datetime.now(dt.UTC)
        return contents.signed_release(self._repository, site=SITE, release_id=self.id_of(offer), now=now)

    @property
    def _repository(self) -> Path:
        return self._folder / "repository"

    def _written(self, offer: OfferedRelease) -> Path:
        folder = self._folder / "releases" / offer.version
        if offer.expected == "serving":
            copy_with_policy(self._better, folder, version=offer.version, policy=POLICY)
        else:
            bad_models.write_bad_release("shifted_scores", self._better, folder, version=offer.version)
            copy_with_policy(folder, folder, version=offer.version, policy=POLICY)
        return folder
