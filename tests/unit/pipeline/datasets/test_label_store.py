"""Labels: hostile input is refused, each label is stored once and never lost, conflicts are found."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.records import Outcome
from agent.wire.collected_frame import CollectReason
from pipeline.cloud.cloud_cli import main as cloud
from pipeline.cloud.storage import Storage, open_storage
from pipeline.dataset_reader import DatasetError
from pipeline.datasets import label_formats
from pipeline.datasets.collected_frames import scan_frames
from pipeline.datasets.label_conflicts import find_disagreements, find_revisions
from pipeline.datasets.label_store import (
    LabelHistory,
    LabelStore,
    is_key,
    load_labels,
    read_lines,
    to_csv,
    validate_label,
)
from tests.kits.cloud.datasets import NOW, Line, label

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.datasets.label_store import Label

KEY = "line-1/cam/1/7"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "plant")


def store_of(storage: Storage) -> LabelStore:
    return LabelStore(storage, now=lambda: NOW)


def defaults(**changes: Any) -> label_formats.ImportOptions:
    return label_formats.ImportOptions(**{"now": NOW, **changes})


# --- the store --------------------------------------------------------------------------------------------------------


def test_the_latest_label_holds_and_the_history_stays(storage: Storage) -> None:
    store = store_of(storage)
    store.append([label(KEY, "spot", at="2026-03-01T00:00:00Z")])
    store.append([label(KEY, "ok", at="2026-02-01T00:00:00Z")])  # it comes later and is older

    book = store.load()

    latest = book.latest(KEY)
    assert latest is not None
    assert latest.label == "spot"
    assert [x.label for x in book.by_key[KEY]] == ["ok", "spot"]


def test_what_is_stored_is_not_stored_again(storage: Storage) -> None:
    store = store_of(storage)
    labels = [label(KEY, "spot"), label("line-1/cam/1/8", "ok")]

    assert store.append(labels) == 2
    assert store.append([*labels, label("line-1/cam/1/9", "ok")]) == 1
    assert store.append(labels) == 0
    assert len(list(storage.list())) == 2


def test_a_batch_that_was_changed_is_refused(storage: Storage) -> None:
    store_of(storage).append([label(KEY, "spot")])
    (stored,) = storage.list()
    storage.write(stored.key, label(KEY, "ok").line().encode())

    with pytest.raises(DatasetError, match="does not have the name of its content"):
        store_of(storage).load()


@given(st.permutations(range(8)), st.integers(1, 7))
def test_the_book_does_not_depend_on_the_order_of_imports(order: list[int], cut: int) -> None:
    labels = [label(f"l/c/1/{i % 3}", "ok" if i % 2 else "spot", labeller=f"p{i % 4}") for i in range(8)]
    shuffled = [labels[i] for i in order]
    one, other = LabelHistory.from_labels(labels), LabelHistory.from_labels([*shuffled[cut:], *shuffled])

    assert one == other
    assert one.digest == other.digest


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"key": "../../x"}, "not the key of a verdict"),
        ({"key": "l/c/1"}, "not the key of a verdict"),
        ({"key": "l/c/01/2"}, "not the key of a verdict"),
        ({"key": f"l/c/1/{'9' * 30}"}, "not the key of a verdict"),
        ({"label": "a b"}, "label 'a b'"),
        ({"label": ""}, "printable"),
        ({"label": 3}, "printable"),
        ({"label": "exclude", "is_defect": True}, "not a defect"),
        ({"is_defect": "yes"}, "true or false"),
        ({"is_defect": None}, "true or false"),
        ({"labelled_at": "9999-01-01T00:00:00Z"}, "in the future"),
        ({"labelled_at": "0001-01-01T00:00:00+23:59"}, "not a time|before"),
        ({"labelled_at": "yesterday"}, "not a time"),
        ({"source": "x" * 129}, "at most 128"),
        ({"labeller": "a\nb"}, "printable"),
        ({"more": 1}, "differ"),
    ],
)
def test_a_label_that_breaks_the_rules_is_refused_with_its_place(change: dict[str, Any], text: str) -> None:
    values = {**json.loads(label(KEY, "spot").line()), **change}
    with pytest.raises(DatasetError, match=f"file, line 3: .*({text})"):
        validate_label(values, "file, line 3", now=NOW)


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"key": NaN}', b"\xff", b'{"a":1,"a":1}', b"{" * 5_000])
def test_a_line_that_is_no_label_is_refused(line: bytes) -> None:
    with pytest.raises(DatasetError, match="f, line 2"):
        list(read_lines(label(KEY, "ok").line().encode() + b"\n" + line, "f", now=NOW))


@given(st.text(max_size=30))
def test_a_key_that_is_accepted_has_four_safe_parts(text: str) -> None:
    if is_key(text):
        line, camera, epoch, seq = text.split("/")
        assert f"{line}/{camera}/{int(epoch)}/{int(seq)}" == text


def test_times_become_utc() -> None:
    values = {**json.loads(label(KEY, "spot").line()), "labelled_at": "2026-02-01T10:00:00.5+02:00"}
    assert validate_label(values, "x", now=NOW).labelled_at == "2026-02-01T08:00:00Z"


def test_csv_and_json_lines_round_trip(tmp_path: Path) -> None:
    labels = (label(KEY, "spot"), label("line-1/cam/1/8", "ok"), label("line-1/cam/1/9", "exclude"))
    (tmp_path / "a.csv").write_bytes(to_csv(labels))
    (tmp_path / "a.jsonl").write_text("".join(x.line() + "\n" for x in labels))

    assert tuple(load_labels(tmp_path / "a.csv").all()) == labels
    assert tuple(load_labels(tmp_path / "a.jsonl").all()) == labels


# --- conflicts --------------------------------------------------------------------------------------------------------


def test_two_labellers_disagree_until_a_review() -> None:
    first = label(KEY, "spot")
    second = label(KEY, "ok", labeller="bob", at="2026-02-02T00:00:00Z")
    review = label(KEY, "ok", labeller="eve", source="review", at="2026-02-03T00:00:00Z")
    late = label(KEY, "spot", labeller="ann", at="2026-02-04T00:00:00Z")

    assert str(find_disagreements(LabelHistory.from_labels([first, second]))[KEY]).startswith(f"{KEY}: spot (ann")
    assert not find_disagreements(LabelHistory.from_labels([first, second, review]))
    assert find_disagreements(LabelHistory.from_labels([first, second, review, late]))
    assert not find_disagreements(LabelHistory.from_labels([first, replace(second, label="spot", is_defect=True)]))


def test_a_labeller_who_changes_a_label_is_told_and_believed() -> None:
    labels = [label(KEY, "spot"), label(KEY, "ok", at="2026-02-02T00:00:00Z")]
    book = LabelHistory.from_labels(labels)

    assert not find_disagreements(book)
    (found,) = find_revisions(book)
    assert found.keys == (KEY,)


# --- formats ----------------------------------------------------------------------------------------------------------


def entry(reference: str, **meta: Any) -> dict[str, Any]:
    """A line of an output manifest as Ground Truth writes it."""
    return {
        "source-ref": reference,
        "surface": 1,
        "surface-metadata": {
            "class-name": "spot",
            "confidence": 0.93,
            "human-annotated": "yes",
            "creation-date": "2026-02-18T22:18:13.527256",
            "job-name": "labeling-job/surface",
            "type": "groundtruth/image-classification",
            **meta,
        },
    }


def read_manifest(storage: Storage, *entries: dict[str, Any], **changes: Any) -> label_formats.LabelImport:
    data = "".join(json.dumps(line) + "\n" for line in entries).encode()
    return label_formats.read_ground_truth(
        data, "m", label_formats.FrameIndex(scan_frames(storage)), defaults(**changes)
    )


def place(storage: Storage, number: int = 0) -> str:
    return "s3://bucket/some/prefix/" + scan_frames(storage).frames[number].image_path


def test_a_ground_truth_manifest_gives_the_consolidated_human_labels(storage: Storage) -> None:
    line = Line(storage)
    line.keep(1)
    line.keep(2)
    found = read_manifest(
        storage, entry(place(storage)), entry(place(storage, 1), **{"class-name": "Normal Part"}), good=("Normal_Part",)
    )

    assert found.problems == ()
    assert found.labels[0] == label(
        line.keys[0],
        "spot",
        labeller="labeling-job/surface",
        source="groundtruth:labeling-job/surface",
        at="2026-02-18T22:18:13Z",
    )
    assert (found.labels[1].label, found.labels[1].is_defect) == ("Normal_Part", False)


def test_boxes_and_several_classes_are_read_as_classes(storage: Storage) -> None:
    Line(storage).keep(1)
    box = {"class_id": 0, "left": 1, "top": 1, "width": 5, "height": 5}
    boxes = {
        **entry(place(storage), type="groundtruth/object-detection", **{"class-map": {"0": "spot", "1": "line"}}),
        "surface": {"annotations": [box, {**box, "class_id": 1, "width": 50}], "image_size": []},
    }
    none = {**boxes, "surface": {"annotations": [], "image_size": []}}
    several = {
        **entry(
            place(storage),
            type="groundtruth/image-classification-multilabel",
            **{"class-map": {"3": "dent"}, "confidence-map": {"3": 0.9}},
        ),
        "surface": [3],
    }

    found = read_manifest(storage, boxes, none, several)

    assert [x.label for x in found.labels] == ["line", "ok", "dent"]
    assert [x.is_defect for x in found.labels] == [True, False, True]


@pytest.mark.parametrize(
    ("meta", "text"),
    [
        ({"failure-reason": "unreadable"}, "it could not be labelled: unreadable"),
        ({"human-annotated": "no"}, "by a machine"),
        ({"confidence": 0.4}, "confidence is 0.40"),
        ({"confidence": "NaN"}, "confidence is 0.00"),
        ({"class-name": 7}, "the class has no name"),
        ({"class-name": "../.."}, "must be 1 to 64"),
        ({"type": "groundtruth/semantic-segmentation"}, "are not supported"),
        ({"type": "groundtruth/image-classification-multilabel", "class-map": []}, "are not supported"),
        ({"creation-date": "2999-01-01T00:00:00"}, "in the future"),
        ({"creation-date": None}, "not a time"),
    ],
)
def test_an_entry_that_gives_no_label_is_told(storage: Storage, meta: dict[str, Any], text: str) -> None:
    Line(storage).keep(1)
    found = read_manifest(storage, entry(place(storage), **meta), min_confidence=0.5)

    assert found.labels == ()
    assert text in found.problems[0]
    assert found.problems[0].startswith("m, line 1: ")


def test_a_picture_that_no_line_collected_is_told(storage: Storage) -> None:
    line = Line(storage)
    line.keep(1)
    replace(line, thing="thing-2", line="line-2").keep(1)

    found = read_manifest(storage, entry("s3://b/other/cam-1-9.png"), entry("s3://b/renamed/cam-1-1.png"))

    assert found.labels == ()
    assert "no collected frame" in found.problems[0]
    assert "the name of several collected frames" in found.problems[1]


@pytest.mark.parametrize("data", [b"{", b'{"x": 1}', b'{"a-metadata": {}, "b-metadata": {}}', b"[]"])
def test_what_is_no_output_manifest_is_refused(storage: Storage, data: bytes) -> None:
    Line(storage).keep(1)
    with pytest.raises(DatasetError, match="m, line 1"):
        label_formats.read_ground_truth(data, "m", label_formats.FrameIndex(scan_frames(storage)), defaults())


def test_our_own_manifest_is_read_back(storage: Storage) -> None:
    line = Line(storage)
    labels = [label(line.keep(seq), "spot" if seq % 2 else "ok", labeller="job-1") for seq in range(4)]
    lines = list(label_formats.to_ground_truth(LabelHistory.from_labels(labels), scan_frames(storage), "s3://bucket"))
    data = "\n".join(lines).encode()

    found = label_formats.read_ground_truth(
        data, "m", label_formats.FrameIndex(scan_frames(storage)), defaults(source="job-1")
    )

    assert set(found.labels) == set(labels)


def test_a_table_may_name_pictures_by_their_place(storage: Storage) -> None:
    line = Line(storage)
    line.keep(1)
    text = "path,label,is_defect\ncam-1-1.png,scuff,0\nnowhere.png,scuff,1\n"

    found = label_formats.read_csv(
        text.encode(), "t.csv", label_formats.FrameIndex(scan_frames(storage)), defaults(labeller="ann")
    )

    (only,) = found.labels
    assert (only.key, only.label, only.is_defect, only.labeller) == (line.keys[0], "scuff", False, "ann")
    assert "nowhere.png is no collected frame" in found.problems[0]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("path\nx.png\n", "columns label are missing"),
        ("key,label\na/b/1/2,ok,more\n", "number of fields"),
        ("key,label,is_defect\na/b/1/2,ok,perhaps\n", "is_defect is 'perhaps'"),
        ("\xff\xfe", "columns label"),
        ('key,label\n"a/b/1/2,ok\n' + "x" * 200_000, "cannot be read as CSV|number of fields"),
    ],
)
def test_a_table_that_is_wrong_is_refused(text: str, error: str) -> None:
    with pytest.raises(DatasetError, match=error):
        label_formats.read_csv(text.encode(), "t.csv", None, defaults())


# --- the commands -----------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = cloud([*arguments, "--json"])
    out = capsys.readouterr()
    return code, json.loads(out.out) if out.out else out.err


def test_pictures_go_to_a_person_and_come_back_sorted(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = Line(storage)
    line.keep(1)
    line.keep(2, outcome=Outcome.UNSURE, score=0.5, reason=CollectReason.UNSURE)
    plant, to, sorted_ = storage.uri, str(tmp_path / "labels"), tmp_path / "sort"
    empty = tmp_path / "none.jsonl"
    empty.touch()

    wanted = ("labels", "export", "--labels", str(empty), "--collected", plant, "--format")
    code, answer = run(capsys, *wanted, "folder", "--to", str(sorted_))
    assert (code, answer["entries"]) == (0, 2)
    assert run(capsys, *wanted, "input", "--to", str(tmp_path / "todo"), "--limit", "1")[1]["entries"] == 1
    assert "cam-1-2.png" in (tmp_path / "todo").read_text()  # the unsure one goes first
    (picture,) = (sorted_ / "spot").glob("*-cam-1-1.png")
    (sorted_ / "scratch").mkdir()
    picture.rename(sorted_ / "scratch" / "a-person-called-it-this.png")

    back = ("labels", "import", str(sorted_), "--to", to, "--collected", plant, "--labeller", "ann")
    code, answer = run(capsys, *back)
    assert (code, answer["stored"], answer["problems"]) == (0, 2, [])
    assert run(capsys, *back)[1]["stored"] == 0  # nothing twice, though the times differ
    held = load_labels(to)
    assert {key: held.by_key[key][-1].label for key in line.keys} == {line.keys[0]: "scratch", line.keys[1]: "ok"}


def test_labels_leave_as_a_table_and_conflicts_are_shown(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = Line(storage).keep(1)
    labels: list[Label] = [label(key, "spot"), label(key, "ok", labeller="bob", at="2026-02-02T00:00:00Z")]
    (tmp_path / "in.csv").write_bytes(to_csv(labels))
    to = str(tmp_path / "store")

    assert run(capsys, "labels", "import", str(tmp_path / "in.csv"), "--to", to)[1]["stored"] == 2
    code, answer = run(capsys, "labels", "conflicts", "--labels", to, "--collected", storage.uri)
    assert code == 0
    assert answer["disagreements"][0]["keys"] == [key]
    out = tmp_path / "out.csv"
    assert run(capsys, "labels", "export", "--labels", to, "--format", "csv", "--to", str(out))[1]["entries"] == 1
    assert run(capsys, "labels", "export", "--labels", to, "--format", "csv", "--to", str(out), "--history")
    assert tuple(load_labels(out).all()) == tuple(sorted(labels))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("labels", "import", "x.manifest", "--to", "store"), "give them with --collected"),
        (("labels", "import", "x", "--to", "store"), "give --format"),
        (("labels", "import", "gone.csv", "--to", "store"), "gone.csv does not exist"),
        (("labels", "conflicts", "--labels", "nowhere"), "is not a folder"),
        (("dataset", "show", "nowhere"), "nowhere cannot be read"),
        (("dataset", "build", "--out", "v", "--shares", "1,2"), "write three numbers"),
        (("dataset", "build", "--out", "a b"), "must be 1 to 64"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cloud(list(arguments)) != 0
    out = capsys.readouterr()
    assert text in out.err
    assert "Traceback" not in out.err


def test_a_label_a_day_ahead_is_the_clocks_fault_and_further_ones_are_not() -> None:
    values = json.loads(label(KEY, "ok").line())
    soon = (NOW + timedelta(hours=23)).isoformat()
    assert validate_label({**values, "labelled_at": soon}, "x", now=NOW).labelled_at == "2026-06-01T23:00:00Z"
    with pytest.raises(DatasetError, match="in the future"):
        validate_label({**values, "labelled_at": (NOW + timedelta(hours=25)).isoformat()}, "x", now=NOW)
