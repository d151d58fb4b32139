"""Versions of data sets: collected frames and labels, in splits that never leak."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, cast

import boto3
import cv2
import numpy as np
import pytest
from moto import mock_aws

from agent.preprocess import Preprocessor
from agent.records import Geometry, Outcome
from agent.wire.collected_frame import CollectReason
from pipeline.cloud.storage import Storage, StorageError, open_storage
from pipeline.dataset_reader import Dataset, DatasetError
from pipeline.datasets.collected_frames import MASKS
from pipeline.datasets.dataset_builder import BuildSettings, SplitShares
from pipeline.datasets.dataset_version import DatasetVersion, read_version
from pipeline.datasets.label_store import LabelStore
from pipeline.model_inputs import prepare, read_image, read_mask
from tests.kits.cloud.datasets import NOW, Line, build, encoded, label, surface
from tests.kits.cloud.training import write_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.cloud.storage import StoredObject
    from pipeline.datasets.label_store import Label


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "plant")


def store(storage: Storage, *labels: Label) -> Storage:
    LabelStore(storage, now=lambda: NOW).append(labels)
    return storage


def alternating(storage: Storage, count: int, start: int = 0) -> Line:
    """`count` frames of line-1, ok and spot in turn, labelled."""
    line = Line(storage)
    for seq in range(start, start + count):
        line.keep(seq)
    store(storage, *(label(key, "spot" if i % 2 else "ok") for i, key in enumerate(line.keys)))
    return line


def by_key(version: DatasetVersion) -> dict[str | None, str]:
    return {s.key: s.split for s in version.samples}


def test_collected_and_labelled_frames_become_a_data_set_that_training_reads(storage: Storage, tmp_path: Path) -> None:
    line = alternating(storage, 40)
    line.keep(99)  # nobody labelled it

    version = build(storage, storage, None, tmp_path / "v1")

    dataset = Dataset.load(tmp_path / "v1")
    assert len(dataset.samples) == 40
    assert dataset.classes == ("ok", "spot")
    assert dataset.defects == {"spot"}
    assert {name: len(dataset.split(name)) for name in ("train", "val", "test")} == {"train": 28, "val": 6, "test": 6}
    assert all({s.class_name for s in dataset.split(name)} == {"ok", "spot"} for name in ("train", "val", "test"))
    assert version.quality.unlabelled == 1
    assert read_version(tmp_path / "v1") == version
    assert version.samples[0].slices["camera"] == "cam"
    assert not (tmp_path / ".v1.building").exists()


def test_the_next_version_keeps_every_sample_in_its_split_and_adds_the_new_ones(
    storage: Storage, tmp_path: Path
) -> None:
    alternating(storage, 30)
    first = build(storage, storage, None, tmp_path / "v1")
    alternating(storage, 30, start=30)

    second = build(storage, storage, tmp_path / "v1", tmp_path / "v2")

    before, after = by_key(first), by_key(second)
    assert len(after) == 60
    assert before.items() <= after.items()
    assert second.parent == first.digest
    Dataset.load(tmp_path / "v2")


def test_equal_inputs_give_an_equal_version_and_building_again_changes_nothing(
    storage: Storage, tmp_path: Path
) -> None:
    alternating(storage, 12)
    first = build(storage, storage, None, tmp_path / "a" / "v1")
    again = build(storage, storage, None, tmp_path / "b" / "v1")
    same = build(storage, storage, None, tmp_path / "a" / "v1")
    other = build(storage, storage, None, tmp_path / "c" / "v1", seed=1)

    assert first.digest == again.digest == same.digest
    assert first.digest != other.digest
    alternating(storage, 4, start=50)
    with pytest.raises(DatasetError, match="never changed"):
        build(storage, storage, None, tmp_path / "a" / "v1")
    assert read_version(tmp_path / "a" / "v1").digest == first.digest


class Cut:
    """A storage whose connection ends after some pictures."""

    def __init__(self, storage: Storage, pictures: int) -> None:
        self._storage, self._left = storage, pictures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def read(self, key: str, **limits: int) -> bytes:
        self._left -= key.startswith("collected/") and key.endswith(".png")
        if self._left < 0:
            raise StorageError(f"{key}: no network")
        return self._storage.read(key, **limits)


def test_a_bucket_that_goes_away_in_the_middle_costs_what_was_not_brought_yet(storage: Storage, tmp_path: Path) -> None:
    alternating(storage, 10)
    with pytest.raises(StorageError, match="no network"):
        build(cast("Storage", Cut(storage, 5)), storage, None, tmp_path / "v")
    assert not (tmp_path / "v").exists()
    brought = len(list((tmp_path / ".v.building").rglob("*.png")))
    assert 0 < brought < 10

    build(cast("Storage", Cut(storage, 10 - brought)), storage, None, tmp_path / "v")

    assert len(Dataset.load(tmp_path / "v").samples) == 10


class Shuffled:
    """A storage that lists in another order."""

    def __init__(self, storage: Storage, seed: int) -> None:
        self._storage, self._random = storage, random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        found = list(self._storage.list(prefix))
        self._random.shuffle(found)
        yield from found


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_listings_does_not_matter(storage: Storage, tmp_path: Path, seed: int) -> None:
    line = alternating(storage, 16)
    again = Line(storage, boot_epoch=2)
    store(storage, *(label(again.keep(i, pixels=surface(i)), "spot" if i % 2 else "ok") for i in range(4)))
    store(storage, label(line.keys[5], "ok", labeller="bob"))
    base = build(storage, storage, None, tmp_path / "v1")
    shuffled = cast("Storage", Shuffled(storage, seed))

    same = build(shuffled, shuffled, None, tmp_path / "x", name="v1")

    assert same.digest == base.digest
    assert same.quality == base.quality


def test_the_same_version_is_built_from_a_bucket(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alternating(storage, 8)
    here = build(storage, storage, None, tmp_path / "here" / "v1")
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="plant")
        bucket = open_storage("s3://plant/kensa")
        for stored in storage.list():
            bucket.write(stored.key, storage.read(stored.key))
        there = build("s3://plant/kensa", "s3://plant/kensa", None, tmp_path / "there" / "v1")

    assert there.digest == here.digest
    Dataset.load(tmp_path / "there" / "v1")


def test_a_folder_with_splits_is_a_base_too_and_its_masks_come_along(storage: Storage, tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", train=6, val=3, masks=True)
    before = {s.sha256: s.split for s in Dataset.load(tmp_path / "parts").samples}
    line = Line(storage)
    store(storage, *(label(line.keep(seq), "spot") for seq in range(4)))

    build(storage, storage, tmp_path / "parts", tmp_path / "v1")

    dataset = Dataset.load(tmp_path / "v1")
    after = {s.sha256: s.split for s in dataset.samples}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 4
    assert dataset.has_masks


def test_frames_of_the_same_part_and_neighbours_of_a_camera_share_a_split(storage: Storage, tmp_path: Path) -> None:
    line = Line(storage)
    seq = 0
    for part in range(20):
        for camera in ("left", "right"):
            line.keep(seq, camera=camera, part=f"part-{part}", at_s=1_000.0 * part)
            seq += 1
    for group in range(20):
        for shot in range(3):  # nobody triggered: half a second apart
            line.keep(seq, camera="free", at_s=1_000.0 * group + 0.5 * shot)
            seq += 1
    store(storage, *(label(key, "ok" if i % 3 else "spot") for i, key in enumerate(line.keys)))

    version = build(storage, storage, None, tmp_path / "v")

    splits = by_key(version)
    for part in range(20):
        assert len({splits[key] for key in line.keys[2 * part : 2 * part + 2]}) == 1
        assert len({splits[key] for key in line.keys[40 + 3 * part : 43 + 3 * part]}) == 1
    assert len({s.group for s in version.samples}) == 40


def test_a_version_may_be_of_one_site_and_one_inspection(storage: Storage, tmp_path: Path) -> None:
    keys = [
        Line(storage, inspection=inspection, site=site, line=f"{site}-{inspection}").keep(seq)
        for seq, (inspection, site) in enumerate((i, s) for i in ("top", "side") for s in ("plant-a", "plant-b"))
    ]
    store(storage, *(label(key, "ok") for key in keys))

    version = build(storage, storage, None, tmp_path / "v", settings=BuildSettings(site="plant-b", inspection="side"))

    assert set(by_key(version)) == {keys[3]}


def test_neighbours_with_different_part_ids_are_different_parts(storage: Storage, tmp_path: Path) -> None:
    line = Line(storage)
    for seq in range(20):
        line.keep(seq, part=f"part-{seq}", at_s=0.1 * seq)
    store(storage, *(label(key, "ok" if i % 2 else "spot") for i, key in enumerate(line.keys)))

    version = build(storage, storage, None, tmp_path / "v")

    assert len({s.group for s in version.samples}) == 20


def test_a_copy_of_a_validation_picture_follows_it_into_validation(storage: Storage, tmp_path: Path) -> None:
    alternating(storage, 40)
    first = build(storage, storage, None, tmp_path / "v1")
    of_val = next(s for s in first.samples if s.split == "val")
    pixels = read_image(tmp_path / "v1" / of_val.path)
    line = Line(storage, boot_epoch=2)
    brighter = np.asarray(cv2.convertScaleAbs(pixels, alpha=1.05, beta=6), np.uint8)
    store(storage, label(line.keep(500, pixels=brighter, kind="jpg"), of_val.class_name))

    second = build(storage, storage, tmp_path / "v1", tmp_path / "v2")

    copy = next(s for s in second.samples if s.key == line.keys[0])
    assert (copy.split, copy.group) == ("val", of_val.group)
    assert copy.path.endswith(".jpg")
    assert second.quality.near_duplicates == 1


def test_a_picture_that_would_tie_train_and_val_together_is_left_out(storage: Storage, tmp_path: Path) -> None:
    alternating(storage, 40)
    first = build(storage, storage, None, tmp_path / "v1")
    of_val = next(s for s in first.samples if s.split == "val")
    of_train = next(s for s in first.samples if s.split == "train")
    assert of_train.captured_utc_us is not None
    line = Line(storage, boot_epoch=2)
    copy = np.asarray(cv2.GaussianBlur(read_image(tmp_path / "v1" / of_val.path), (3, 3), 0), np.uint8)
    at_s = of_train.captured_utc_us / 1e6 - 1_767_225_600 + 0.2
    store(storage, label(line.keep(500, pixels=copy, at_s=at_s), "ok"))

    second = build(storage, storage, tmp_path / "v1", tmp_path / "v2")

    assert second.quality.straddling.count == 1
    assert by_key(second) == by_key(first)


def test_a_sample_that_comes_back_goes_where_it_was(storage: Storage, tmp_path: Path) -> None:
    line = alternating(storage, 40)
    first = build(storage, storage, None, tmp_path / "v1")
    key = next(s.key for s in first.samples if s.split == "test")
    assert key is not None
    store(storage, label(key, "exclude", at="2026-03-01T00:00:00Z"))
    second = build(storage, storage, tmp_path / "v1", tmp_path / "v2")
    store(storage, label(key, "ok", at="2026-04-01T00:00:00Z"))

    third = build(storage, storage, tmp_path / "v2", tmp_path / "v3", seed=7)

    assert key in line.keys
    assert key not in by_key(second)
    assert [s.key for s in second.retired] == [key]
    assert by_key(third)[key] == "test"
    assert third.retired == ()


def test_a_corrected_label_changes_the_class_and_not_the_split(storage: Storage, tmp_path: Path) -> None:
    line = alternating(storage, 20)
    first = build(storage, storage, None, tmp_path / "v1")
    store(storage, label(line.keys[0], "spot", at="2026-03-01T00:00:00Z"))

    second = build(storage, storage, tmp_path / "v1", tmp_path / "v2")

    assert by_key(second) == by_key(first)
    assert {s.key: s.class_name for s in second.samples}[line.keys[0]] == "spot"


def test_what_labellers_disagree_about_waits_for_a_review(storage: Storage, tmp_path: Path) -> None:
    line = alternating(storage, 20)
    key = line.keys[0]
    store(storage, label(key, "spot", labeller="bob", at="2026-03-01T00:00:00Z"))
    first = build(storage, storage, None, tmp_path / "v1")
    store(storage, label(key, "spot", labeller="eve", source="review", at="2026-03-02T00:00:00Z"))
    second = build(storage, storage, None, tmp_path / "v2")

    assert key not in by_key(first)
    assert first.quality.conflicts.count == 1
    assert "ok (ann, job-1" in first.quality.conflicts.first[0]
    assert key in by_key(second)


def test_equal_bytes_are_used_once_and_not_at_all_with_different_labels(storage: Storage, tmp_path: Path) -> None:
    line = alternating(storage, 20)
    again = Line(storage, boot_epoch=2)
    store(
        storage,
        label(again.keep(0, pixels=surface(0)), "ok"),
        label(again.keep(1, pixels=surface(1)), "ok"),
    )

    version = build(storage, storage, None, tmp_path / "v")

    assert version.quality.duplicates == 2
    assert version.quality.same_picture.count == 1
    assert line.keys[1] not in by_key(version)
    assert len(version.samples) == 19


def test_a_class_is_a_defect_or_it_is_not(storage: Storage, tmp_path: Path) -> None:
    line = alternating(storage, 20)
    stray = line.keep(50)
    store(storage, label(stray, "spot", defect=False))

    version = build(storage, storage, None, tmp_path / "v")

    assert stray not in by_key(version)
    assert "spot is good for ann" in version.quality.conflicts.first[0]


def test_limits_hold_for_new_training_samples_only(storage: Storage, tmp_path: Path) -> None:
    alternating(storage, 20)
    build(storage, storage, None, tmp_path / "v1")
    alternating(storage, 60, start=20)

    version = build(
        storage,
        storage,
        tmp_path / "v1",
        tmp_path / "v2",
        settings=BuildSettings(max_per_class=12, max_good_per_defect=0.8),
    )

    train = version.counts()
    assert train["spot"]["train"] == 12
    assert train["ok"]["train"] == 10
    assert version.quality.over_limit > 20
    assert sum(row["val"] + row["test"] for row in train.values()) > 20
    weights = {s.class_name: s.weight for s in version.samples if s.split == "train"}
    assert weights["ok"] > weights["spot"]


def test_a_damaged_picture_and_a_foreign_sidecar_are_left_out_and_told(storage: Storage, tmp_path: Path) -> None:
    line = alternating(storage, 20)
    for key, wrong in (
        (line.keep(60, sha256="0" * 64), "not the image"),
        (line.keep(61, bytes=10), "longer than the 10 bytes"),
        (line.keep(62, width=47), "its sidecar states"),
    ):
        store(storage, label(key, "spot"))
        assert wrong
    (stored,) = [s for s in storage.list() if s.key.endswith("cam-1-5.json")]
    storage.write(stored.key.replace("site=plant-a", "site=plant-b"), storage.read(stored.key))
    storage.write(stored.key.replace("cam-1-5", "cam-1-70"), b'{"v":NaN}')
    storage.write(stored.key.replace("cam-1-5", "cam-1-71"), b"x" * 100_000)

    version = build(storage, storage, None, tmp_path / "v")

    told = "\n".join(version.quality.unreadable.first)
    assert version.quality.unreadable.count == 6
    for text in (
        "not the image",
        "longer than the 10 bytes",
        "its sidecar states",
        "of another place",
        "NaN",
        "16,384",
    ):
        assert text in told
    assert len(version.samples) == 20


def test_masks_that_people_drew_come_along_and_wrong_ones_are_told(storage: Storage, tmp_path: Path) -> None:
    line = alternating(storage, 20)
    drawn = np.zeros((48, 48), np.uint8)
    drawn[10:20, 10:20] = 255
    for number, data in (
        (1, encoded(drawn)),
        (2, encoded(drawn)),  # of a good part: of no use
        (3, encoded(drawn[:40])),
        (5, encoded(drawn, "jpg")),
        (7, b"no image"),
    ):
        storage.write(f"{MASKS}/{line.keys[number]}.png", data)

    version = build(storage, storage, None, tmp_path / "v")

    dataset = Dataset.load(tmp_path / "v")
    (marked,) = [s for s in dataset.samples if s.mask_path is not None]
    mask = read_mask(marked)
    assert mask is not None
    assert np.array_equal(mask, drawn)
    assert [s.key for s in version.samples if s.mask] == [line.keys[1]]
    told = version.quality.unreadable
    assert told.count == 3
    assert "is not a mask" in "\n".join(told.first)
    assert "is not a PNG of the size of its image, 48x48 px" in "\n".join(told.first)


def test_a_picture_without_its_sidecar_is_still_on_its_way(storage: Storage, tmp_path: Path) -> None:
    line = alternating(storage, 10)
    (stored,) = [s for s in storage.list() if s.key.endswith("cam-1-4.json")]
    storage.delete(stored.key)

    version = build(storage, storage, None, tmp_path / "v")

    assert line.keys[4] not in by_key(version)
    assert version.quality.orphans == 1
    assert version.quality.unreadable.count == 0


def test_an_interrupted_build_goes_on_with_what_it_had(storage: Storage, tmp_path: Path) -> None:
    alternating(storage, 10)
    whole = build(storage, storage, None, tmp_path / "v")
    (tmp_path / "v").rename(tmp_path / ".again.building")
    stale = tmp_path / ".again.building" / "objects" / "00" / f"{'0' * 64}.png"
    stale.parent.mkdir(exist_ok=True)
    stale.write_bytes(b"of other inputs")
    changed = tmp_path / ".again.building" / whole.samples[0].path
    changed.write_bytes(b"cut")

    again = build(storage, storage, None, tmp_path / "again", name="v")

    assert again.digest == whole.digest
    assert not (tmp_path / "again" / "objects" / "00" / stale.name).exists()
    Dataset.load(tmp_path / "again")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (BuildSettings(shares=SplitShares(1.0, 0.0, 0.0)), "train and val need some"),
        (BuildSettings(shares=SplitShares(0.5, 0.1, 0.1)), "sum is not 1"),
        (BuildSettings(neighbour_s=float("nan")), "neighbour_s nan"),
        (BuildSettings(max_per_class=0), "max_per_class 0"),
        (BuildSettings(max_weight=float("nan")), "max_weight"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    storage: Storage, tmp_path: Path, settings: BuildSettings, text: str
) -> None:
    with pytest.raises(DatasetError, match=text):
        build(storage, storage, None, tmp_path / "v", settings=settings)


def test_nothing_to_build_of_is_told(storage: Storage, tmp_path: Path) -> None:
    Line(storage).keep(1)
    with pytest.raises(DatasetError, match="kensa cloud labels import"):
        build(storage, None, None, tmp_path / "v")
    assert not (tmp_path / "v").exists()


def test_a_folder_in_the_way_is_not_touched(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "mine.txt").write_text("x")
    with pytest.raises(DatasetError, match="holds no finished version"):
        build(storage, storage, None, tmp_path / "v")


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["whole", "tiles"])
def test_training_sees_the_very_bytes_that_the_line_fed_its_model(
    storage: Storage, tmp_path: Path, mode: str, channels: int, *, colour: bool
) -> None:
    frame = np.random.default_rng(3).integers(0, 256, (301, 407, 3) if colour else (301, 407)).astype(np.uint8)
    roi = (33, 17, 201, 155)
    x, y, w, h = roi
    geometry = Geometry(mode, 64, 96, channels, reduction=2 if mode == "tiles" else 1, overlap_px=8)  # type: ignore[arg-type]
    line = Line(storage)
    key = line.keep(1, pixels=frame[y : y + h, x : x + w], crop=roi)
    on_the_line = prepare(Preprocessor(geometry, roi=roi), frame)[0]

    version = build(storage, store(storage, label(key, "spot")), None, tmp_path / "v")

    (sample,) = version.samples
    assert sample.crop == roi
    in_training = prepare(Preprocessor(geometry), read_image(tmp_path / "v" / sample.path))[0]
    assert np.array_equal(in_training, on_the_line)


def honest(storage: Storage, *, wrong_on_good: int = 0) -> list[tuple[str, str]]:
    """60 confident defects and a 1 % sample of 40 good parts; (key, true class)."""
    line = Line(storage)
    truth = []
    for seq in range(100):
        if seq < 60:
            truth.append((line.keep(seq), "ok" if seq < wrong_on_good else "spot"))
        else:
            key = line.keep(seq, outcome=Outcome.OK, score=0.02, reason=CollectReason.SAMPLE, rate=0.01)
            truth.append((key, "ok"))
    return truth


def test_honest_labels_are_believed_even_when_the_light_has_changed(storage: Storage, tmp_path: Path) -> None:
    truth = honest(storage, wrong_on_good=50)
    version = build(storage, store(storage, *(label(key, name) for key, name in truth)), None, tmp_path / "v")

    (of_all, of_job) = version.quality.suspicions
    assert (of_all.source, of_job.source) == ("all", "job-1")
    assert of_job.confident == 100
    assert of_job.contradicted < 0.05  # 50 of 60 rejects, but the sample stands for 4,000 good parts
    assert not version.quality.is_suspicious


@pytest.mark.parametrize("which", ["swapped", "defects-called-good", "good-called-defects"])
def test_a_poisoned_batch_is_suspicious(storage: Storage, tmp_path: Path, which: str) -> None:
    swap = {"swapped": {"ok": "spot", "spot": "ok"}, "defects-called-good": {"spot": "ok"}}.get(which, {"ok": "spot"})
    labels = [label(key, swap.get(name, name), source="cheap") for key, name in honest(storage)]

    version = build(storage, store(storage, *labels), None, tmp_path / "v")

    assert version.quality.is_suspicious
    reasons = [reason for s in version.quality.suspicions for reason in s.reasons]
    assert all(reason.startswith("if these labels hold") for reason in reasons)


def test_a_batch_that_contradicts_what_was_labelled_before_is_suspicious(storage: Storage, tmp_path: Path) -> None:
    line = alternating(storage, 60)
    build(storage, storage, None, tmp_path / "v1")
    store(
        storage,
        *(label(key, "spot", source="late", at="2026-03-01T00:00:00Z") for key in line.keys[:40]),
    )
    version = build(storage, storage, tmp_path / "v1", tmp_path / "v2")

    (late,) = [s for s in version.quality.suspicions if s.source == "late"]
    assert late.overlap == 40
    assert "labelled before were labelled wrongly" in late.reasons[0]


def test_a_base_that_lacks_a_picture_is_named(storage: Storage, tmp_path: Path) -> None:
    alternating(storage, 10)
    first = build(storage, storage, None, tmp_path / "v1")
    (tmp_path / "v1" / first.samples[3].path).unlink()
    with pytest.raises(DatasetError, match="the base version is incomplete"):
        build(storage, storage, tmp_path / "v1", tmp_path / "v2")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tree: tree["samples"][0].update(path="../../etc/passwd"), "pattern"),
        (lambda tree: tree["samples"][0].update(path="objects/00/" + "0" * 64 + ".png"), "not that of the digest"),
        (lambda tree: tree["samples"][0].update(weight="heavy"), "weight"),
        (lambda tree: tree["samples"][0].update(split="training"), "split"),
        (lambda tree: tree["samples"].reverse(), "not sorted"),
        (lambda tree: tree["samples"].append(tree["samples"][0]), "digest"),
        (lambda tree: tree.update(extra=1), "extra"),
        (lambda tree: tree.update(v=2), "v"),
        (lambda tree: tree["samples"][0].update(mask="masks/../x.png"), "mask"),
        (lambda tree: tree["samples"][0].update({"class": "a/b"}), "class"),
        (lambda tree: tree.update(samples=[]), "digest"),
        (lambda tree: tree["samples"][0].update(is_defect=1), "is_defect"),
    ],
)
def test_a_hostile_version_is_refused(
    storage: Storage, tmp_path: Path, change: Callable[[Any], object], text: str
) -> None:
    alternating(storage, 10)
    build(storage, storage, None, tmp_path / "v1")
    path = tmp_path / "v1" / "dataset.json"
    tree = json.loads(path.read_bytes())
    change(tree)
    path.write_text(json.dumps(tree), encoding="utf-8")

    with pytest.raises(DatasetError, match=f"(?s)dataset.json is refused.*{text}"):
        build(storage, storage, tmp_path / "v1", tmp_path / "v2")


@pytest.mark.parametrize("text", ["", "[]", '{"v":1,"v":1}', '{"weight": NaN}', "[" * 100_000, "\xff\xfe"])
def test_what_is_no_version_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match="is refused"):
        read_version(tmp_path)
