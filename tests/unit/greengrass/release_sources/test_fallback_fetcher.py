"""A release is fetched from the folder of its hint first, then from the configured repository."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent.children.fetch_client import FetchClient
from agent.errors import FetchError, ReleaseRefusedError
from agent.ports import FetchJob
from agent.release_records import FetchedRelease, ReleaseRef, RepositoryStatus
from agent.timing.clock import SystemClock
from greengrass.release_sources.fallback_fetcher import FallbackFetcher
from greengrass.release_sources.release_hints import ReleaseHint
from tests.kits.cloud.tuf_repository import RELEASE, SITE, Publisher

REF = ReleaseRef("parts", "1.1.0", 2, "d" * 64, "m" * 64)


class FixedFetcher:
    """A fetcher with one fixed outcome."""

    def __init__(self, outcome: FetchedRelease | Exception) -> None:
        self.outcome = outcome
        self.calls = 0

    def fetch(self, job: FetchJob) -> FetchedRelease:
        self.calls += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def refresh(self, *, trusted_utc_s: float, stop: threading.Event) -> RepositoryStatus:
        self.calls += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return RepositoryStatus(self.outcome.signed_utc_s, self.outcome.revoked)


DOWN = FetchError("unreachable", "no network")
BAD = ReleaseRefusedError("trust", "bad_signature", "not ours")


def fetch(fetcher: FallbackFetcher) -> FetchedRelease:
    return fetcher.fetch(FetchJob(release_id="parts/1.1.0", into=Path("/x"), trusted_utc_s=0.0, stop=threading.Event()))


@pytest.mark.parametrize(
    ("hinted", "configured", "raised"),
    [(True, DOWN, None), (DOWN, True, None), (BAD, True, None), (BAD, DOWN, BAD), (DOWN, DOWN, DOWN), (DOWN, BAD, BAD)],
)
def test_the_hinted_folder_is_tried_before_the_repository(
    tmp_path: Path, hinted: Any, configured: Any, raised: Exception | None
) -> None:
    good = FetchedRelease(REF, tmp_path, 0.0)
    near, far = (FixedFetcher(good if outcome is True else outcome) for outcome in (hinted, configured))
    fetcher = FallbackFetcher(configured=far, in_folder=lambda _folder: near)
    fetcher.add_hint(ReleaseHint("parts/1.1.0", tmp_path))
    if raised is None:
        assert fetch(fetcher) == good
    else:
        with pytest.raises(type(raised), match=str(raised)):
            fetch(fetcher)
    assert near.calls == 1


def test_a_hint_for_a_missing_folder_costs_nothing(tmp_path: Path) -> None:
    near, far = FixedFetcher(BAD), FixedFetcher(FetchedRelease(REF, tmp_path, 0.0))
    fetcher = FallbackFetcher(configured=far, in_folder=lambda _folder: near)
    for number in range(200):
        fetcher.add_hint(ReleaseHint(f"parts/1.0.{number}", tmp_path))
    fetcher.add_hint(ReleaseHint("parts/1.1.0", tmp_path / "gone"))
    assert fetch(fetcher).ref == REF
    assert near.calls == 0


def test_files_of_a_preflight_are_not_fetched_again(tmp_path: Path) -> None:
    publisher = Publisher.start(tmp_path)
    publisher.release()
    configured = FetchClient(
        repository=str(publisher.repository),
        root=publisher.root,
        site=SITE,
        trust_dir=tmp_path / "trust",
        max_release_bytes=1024**3,
        timeout_s=60.0,
        clock=SystemClock(),
    )
    fetcher = FallbackFetcher(configured=configured, in_folder=lambda _folder: configured)

    def fetched(folder: str) -> FetchedRelease:
        (tmp_path / folder).mkdir()
        return fetcher.fetch(
            FetchJob(release_id=RELEASE, into=tmp_path / folder, trusted_utc_s=time.time(), stop=threading.Event())
        )

    first = fetched("preflight")
    shutil.rmtree(publisher.repository / "files")  # it can only come from this disk now
    second = fetched("staging")
    assert second.ref == first.ref
    assert sorted(path.name for path in second.folder.iterdir()) == sorted(path.name for path in first.folder.iterdir())
    (second.folder / "model.onnx").unlink()
    (second.folder / "model.onnx").write_bytes(b"altered on this disk")
    with pytest.raises(FetchError):
        fetched("third")
