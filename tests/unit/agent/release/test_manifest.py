"""A manifest is taken whole or refused with the key, what was given and what is allowed."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import preprocess
from agent.errors import ManifestError
from agent.records import DecisionRule, Geometry
from agent.release import manifest as manifests
from tests.kits.releases import GEOMETRY, manifest_tree

if TYPE_CHECKING:
    from pathlib import Path


def parse(tree: object) -> manifests.Manifest:
    return manifests.parse_manifest(json.dumps(tree).encode())


def changed(path: str, value: object) -> dict[str, Any]:
    """A valid tree with one key changed; `...` removes it."""
    tree = manifest_tree()
    *way, last = path.split("/")
    node: Any = tree
    for key in way:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return tree


def test_a_valid_manifest_gives_geometry_rule_and_identity() -> None:
    manifest = parse(manifest_tree())

    assert manifest.geometry.to_record() == GEOMETRY
    assert manifest.rule() == DecisionRule(("ok", "spot"), frozenset({"spot"}), {"spot": 0.5}, 0.1)
    identity = manifest.identity(trusted=True)
    assert (identity.name, identity.version, identity.trusted) == ("spots", "1.0.0", True)
    assert identity.sha256 == manifest_tree()["files"]["model.onnx"]["sha256"]


def test_writing_and_reading_gives_the_same_manifest_and_bytes() -> None:
    manifest = parse(manifest_tree())

    again = manifests.parse_manifest(manifest.to_json())

    assert again == manifest
    assert again.to_json() == manifest.to_json()


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("name", ..., "name: Field required"),
        ("name", "a b", "name: String should match pattern"),
        ("name", "../x", "name: String should match pattern"),
        ("name", "x" * 65, "name: String should match pattern"),
        ("version", "1.0", "version: String should match pattern"),
        ("version", "1.0.0\n", "version: String should match pattern"),
        ("schema_version", 2, "schema_version: Input should be 1"),
        ("counter", -1, "counter: Input should be greater than or equal to 0"),
        ("surprise", 1, "surprise: Extra inputs are not permitted"),
        ("classes", [], "classes: Tuple should have at least 1 item"),
        ("classes", ["ok", "spot", "spot"], "classes repeat a name: ['ok', 'spot', 'spot']"),
        ("defects", ["dent"], "defects ['dent'] are not among the classes ['ok', 'spot']"),
        ("decision/thresholds", {}, "thresholds are given for [], but the defects are ['spot']"),
        ("decision/thresholds", {"spot": 1.5}, "decision.thresholds.spot: Input should be less than or equal to 1"),
        ("decision/thresholds", {"spot": 0.5, "ok": 0.5}, "thresholds are given for ['ok', 'spot']"),
        ("decision/aggregation", "mean", "decision.aggregation: Input should be 'max' or 'top_mean'"),
        ("decision/top_fraction", 0, "decision.top_fraction: Input should be greater than 0"),
        ("decision/unsure_band", -0.1, "decision.unsure_band: Input should be greater than or equal to 0"),
        ("geometry/mode", "crop", "geometry.mode: Input should be 'whole' or 'tiles'"),
        ("geometry/height", 8, "geometry.height: Input should be greater than or equal to 16"),
        ("geometry/width", 4096, "geometry.width: Input should be less than or equal to 2048"),
        ("geometry/channels", 4, "geometry.channels: Input should be 1 or 3"),
        ("geometry/reduction", 3, "geometry.reduction: Input should be 1, 2 or 4"),
        ("geometry/overlap_px", 32, "overlap_px 32 must be less than the tile's shorter side 32"),
        ("geometry/roi", [0, 0, 5], "geometry.roi"),
        ("preprocess_sha256", "0" * 64, "the model was trained with another preprocessing version"),
        ("preprocess_sha256", "no", "preprocess_sha256: String should match pattern"),
        ("outputs", ["evidence"], "outputs are ['evidence'], allowed are ['scores'] and ['scores', 'evidence']"),
        ("outputs", ["evidence", "scores"], "allowed are ['scores'] and ['scores', 'evidence']"),
        ("files", {}, "files must list model.onnx and golden.npz, got []"),
        ("files/model.onnx/sha256", "A" * 64, "files.model.onnx.sha256: String should match pattern"),
        ("files/model.onnx/length_bytes", 0, "files.model.onnx.length_bytes: Input should be greater than 0"),
        ("files/model.onnx/length_bytes", 2**40, "files.model.onnx.length_bytes: Input should be less than"),
        ("files/../../etc/passwd", {"sha256": "0" * 64, "length_bytes": 1}, ""),
        ("lineage", ..., "lineage: Field required"),
        ("lineage/dataset_sha256", ..., "lineage.dataset_sha256: Field required"),
    ],
)
def test_a_wrong_key_is_refused_by_name(path: str, value: object, complaint: str) -> None:
    if path.startswith("files/.."):
        tree = manifest_tree()
        tree["files"]["../../etc/passwd"] = value
    else:
        tree = changed(path, value)

    with pytest.raises(ManifestError) as caught:
        parse(tree)

    assert complaint in str(caught.value)
    assert str(caught.value).startswith("manifest.json is refused")


def test_evidence_cannot_decide_without_the_output() -> None:
    tree = manifest_tree()
    tree["decision"]["score"] = "evidence"
    assert parse(tree).rule().score == "evidence"
    tree["outputs"] = ["scores"]

    with pytest.raises(ManifestError, match=r"decision\.score is 'evidence', but the model has no output 'evidence'"):
        parse(tree)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"name": NaN}',
        b'{"name": 1e999}',
        b'{"counter": ' + b"9" * 10_000 + b"}",
        json.dumps(manifest_tree()).encode()[:-10],
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="manifest"):
        manifests.parse_manifest(data)


def test_a_key_given_twice_is_refused() -> None:
    data = json.dumps(manifest_tree()).replace('"counter": 0', '"counter": 0, "counter": 7').encode()

    with pytest.raises(ManifestError, match="key 'counter' occurs twice"):
        manifests.parse_manifest(data)


def test_a_huge_manifest_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b" " * (manifests.MAX_MANIFEST_BYTES + 1))

    with pytest.raises(ManifestError, match="at most 262144 are allowed"):
        manifests.read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_no_release_and_the_error_says_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"A release is a folder with manifest\.json, model\.onnx and golden\.npz"):
        manifests.read_manifest(tmp_path / "nowhere")


def test_the_digest_follows_the_geometry() -> None:
    other = Geometry(mode="tiles", height=32, width=64, channels=3)
    tree = manifest_tree(geometry=other)

    assert parse(tree).preprocess_sha256 == preprocess.digest(other)
    tree["geometry"]["width"] = 96
    with pytest.raises(ManifestError, match="preprocess_sha256"):
        parse(tree)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_manifest_or_a_manifest_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        manifests.parse_manifest(data)


VALID = json.dumps(manifest_tree()).encode()


@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_bytes_give_a_manifest_or_a_manifest_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for position, byte in changes:
        data[position] = byte
    with suppress(ManifestError):
        manifests.parse_manifest(bytes(data))
