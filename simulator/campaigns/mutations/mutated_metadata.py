"""Mutated metadata against the device's fetch: it must not crash, hang or accept altered content.

A repository with two roots, two releases and a revocation is damaged one file at a time, and fetched from by the code
of the fetch child, in a process of its own that is replaced when it dies; some cases also go through the real child.
A fetch may still succeed, because what JSON leaves open (white space, an unknown signature) changes nothing that was
signed: it counts as harmless if release, signing time and revocations are exactly the honest ones, and as accepted,
which must never happen, if not.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.children.fetch_client import FetchClient
from agent.children.fetch_protocol import FetchDone, FetchLimits, FetchRequest
from agent.errors import FetchError, ReleaseRefusedError
from agent.ports import FetchJob
from agent.timing.clock import SystemClock
from simulator.campaigns.forkserver import forkserver_context, start_child
from simulator.campaigns.mutations.json_mutations import mutate_json
from simulator.campaigns.mutations.worker_pool import CRASHED, HUNG, run_in_workers

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext

    from agent.children.fetch_protocol import FetchFailed

_SITE: Final = "line"
_CASE_S: Final = 60.0  # a case that takes longer hangs
_LIMITS: Final = FetchLimits(stall_s=20.0, attempts=1, backoff_s=0.0, reserve_bytes=0)
_HARMLESS, _ACCEPTED = "harmless", "accepted"


@dataclass(slots=True)
class MetadataMutations:
    """What came of it. `reasons` counts the refusals by their code."""

    files: int = 0
    refused: int = 0
    harmless: int = 0
    accepted: int = 0
    crashed: int = 0
    hung: int = 0
    through_the_child: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether nothing altered was believed and nothing died."""
        return self.accepted + self.crashed + self.hung == 0


@dataclass(frozen=True, slots=True)
class RepositoryFixture:
    """An honest repository, and what an honest fetch of it gives."""

    base: Path
    release_id: str
    expected: FetchDone

    @property
    def repository(self) -> Path:
        """The folder that gets damaged."""
        return self.base / "repository"

    def metadata_files(self) -> list[Path]:
        """The files of the repository that a fetch reads before the model, in a fixed order."""
        names = [path for path in (self.base / "pristine").rglob("*.json") if "1.root" not in path.name]
        return sorted(path.relative_to(self.base / "pristine") for path in names)

    def request(self, work: Path) -> FetchRequest:
        """A fetch by a device whose folders are below `work`."""
        return FetchRequest(
            repository=str(self.repository),
            root=self.base / "keys" / "metadata" / "1.root.json",
            site=_SITE,
            release_id=self.release_id,
            into=work / "into",
            trust_dir=work / "trust",
            reference_utc_s=time.time(),
            max_release_bytes=1024**3,
            limits=_LIMITS,
        )


def prepare_fixture(base: Path, release: Path) -> RepositoryFixture:
    """Publish `release` (a release folder) and bring a device as far as the first of two publications."""
    from agent.fetch.download import fetch_release  # noqa: PLC0415 - tuf: only in the processes that need it
    from pipeline.repository.signing_keys import Expiry, KeyRing  # noqa: PLC0415
    from pipeline.repository.tuf_repository import Repository  # noqa: PLC0415

    repository = Repository(
        KeyRing.create(base / "keys", repository=str(base / "repository"), expiry=Expiry(timestamp=7))
    )
    repository.create([_SITE], {})
    staged = repository.add(release, _SITE)
    repository.publish()
    setting = RepositoryFixture(base, staged.release_id, FetchDone.model_construct())
    before = fetch_release(setting.request(base / "seen"), lambda _: None)
    if before.event == "failed":
        raise RuntimeError(f"the honest repository is refused: {before.text}")
    repository.revoke(staged.release_id, _SITE, "to be released again")
    repository.rotate(["root"], {})
    repository.add(release, _SITE)
    repository.publish()
    shutil.copytree(base / "repository", base / "pristine")
    shutil.copytree(base / "seen", base / "probe", symlinks=True)
    honest = fetch_release(setting.request(base / "probe"), lambda _: None)
    if honest.event == "failed":
        raise RuntimeError(f"the honest repository is refused: {honest.text}")
    _prune_unread(base, base / "probe")
    return RepositoryFixture(base, staged.release_id, honest)


def _prune_unread(base: Path, probe: Path) -> None:
    """Leave in `pristine` only metadata that the newest timestamp leads to: others are never opened."""
    names = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (probe / "trust").rglob("*.json")}
    names.add(hashlib.sha256((probe / "into" / "manifest.json").read_bytes()).hexdigest())
    for path in (base / "pristine").rglob("*.json"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        newest_list = path.name.endswith("revoked.json") and b"digest" in path.read_bytes()
        if digest not in names and not newest_list:
            path.unlink()


def damage_file(setting: RepositoryFixture, seed: int, index: int) -> Path:
    """Damage one file as case `index` of `seed` does; returns its path in the repository."""
    source = random.Random(f"{seed}/{index}")
    victims = setting.metadata_files()
    chosen = victims[index % len(victims)]
    pristine = [(setting.base / "pristine" / path).read_bytes() for path in victims]
    changed = mutate_json(pristine[victims.index(chosen)], pristine, source)
    (setting.repository / chosen).write_bytes(changed)
    return chosen


def restore_file(setting: RepositoryFixture, chosen: Path) -> None:
    """Make it honest again."""
    shutil.copy(setting.base / "pristine" / chosen, setting.repository / chosen)


def classify(setting: RepositoryFixture, answer: FetchDone | FetchFailed) -> str:
    """`harmless`, `accepted`, or the reason of a refusal."""
    if not isinstance(answer, FetchDone):
        return answer.reason.value
    return _HARMLESS if answer == setting.expected else _ACCEPTED


def _fresh_device(setting: RepositoryFixture, work: Path, index: int) -> None:
    """Every other case meets a device that has seen the first publication."""
    shutil.rmtree(work, ignore_errors=True)
    if index % 2:
        shutil.copytree(setting.base / "seen", work, symlinks=True)
    else:
        (work / "trust").mkdir(parents=True)


def run_cases(setting: RepositoryFixture, seed: int, indices: range, reports: Connection) -> None:
    """Run the cases in this process, and report each before the next begins."""
    from agent.fetch.download import fetch_release  # noqa: PLC0415 - see prepare

    folder = setting.base / "work"
    for index in indices:
        _fresh_device(setting, folder, index)
        chosen = damage_file(setting, seed, index)
        answer = fetch_release(setting.request(folder), lambda _: None)
        restore_file(setting, chosen)
        reports.send(classify(setting, answer))


def run_mutated_metadata(
    *, release: Path, files: int, children: int, seed: int, work_dir: Path | None = None
) -> MetadataMutations:
    """Try `files` mutated files in worker processes, the first `children` of them through the real child as well.

    `work_dir` is where the folders are made; the system's temporary directory by default.
    """
    context = forkserver_context("agent.fetch.download", "pipeline.repository.tuf_repository")
    with tempfile.TemporaryDirectory(prefix="kensa-metadata-", dir=work_dir) as folder:
        setting = _prepared(context, Path(folder), release)
        outcomes = _run_in_workers(context, setting, seed, files)
        outcomes.update(_run_in_fetch_child(setting, seed, index) for index in range(children))
    special = {name: outcomes.pop(name, 0) for name in (_HARMLESS, _ACCEPTED, CRASHED, HUNG)}
    return MetadataMutations(
        files=files,
        refused=sum(outcomes.values()),
        harmless=special[_HARMLESS],
        accepted=special[_ACCEPTED],
        crashed=special[CRASHED],
        hung=special[HUNG],
        through_the_child=children,
        reasons=dict(sorted(outcomes.items())),
    )


def _prepare_and_send(base: Path, release: Path, reports: Connection) -> None:
    reports.send(prepare_fixture(base, release))


def _prepared(context: ForkServerContext, base: Path, release: Path) -> RepositoryFixture:
    """`prepare` in another process: this one may be somebody's who wants no tuf."""
    process, ours = start_child(context, _prepare_and_send, base, release)
    try:
        if not ours.poll(_CASE_S):
            raise TimeoutError("the repository was not ready in time")
        setting: RepositoryFixture = ours.recv()
    finally:
        ours.close()
        process.join(_CASE_S)
    return setting


def _run_in_workers(context: ForkServerContext, setting: RepositoryFixture, seed: int, files: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for _, outcome in run_in_workers(context, run_cases, setting, seed, cases=files, case_s=_CASE_S):
        outcomes[outcome] += 1
        if outcome in {CRASHED, HUNG}:  # the next case begins with an honest repository
            for path in setting.metadata_files():
                restore_file(setting, path)
    return outcomes


def _run_in_fetch_child(setting: RepositoryFixture, seed: int, index: int) -> str:
    folder = setting.base / "work"
    _fresh_device(setting, folder, index)
    chosen = damage_file(setting, seed, index)
    request = setting.request(folder)
    fetcher = FetchClient(
        repository=request.repository,
        root=request.root,
        site=request.site,
        trust_dir=request.trust_dir,
        max_release_bytes=request.max_release_bytes,
        timeout_s=_CASE_S,
        clock=SystemClock(),
        limits=_LIMITS,
    )
    try:
        fetched = fetcher.fetch(
            FetchJob(release_id=setting.release_id, into=request.into, trusted_utc_s=0.0, stop=threading.Event())
        )
    except (FetchError, ReleaseRefusedError) as error:
        return CRASHED if error.reason == "fetcher_crashed" else str(error.reason)
    finally:
        restore_file(setting, chosen)
    honest = setting.expected
    same = (fetched.ref.digest, fetched.signed_utc_s, sorted(fetched.revoked)) == (
        honest.digest,
        honest.signed_utc_s,
        sorted(honest.revoked),
    )
    return _HARMLESS if same else _ACCEPTED
