from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import moto
import pytest

from agent.errors import IntegrityError, UsageError
from pipeline.cloud.storage import StorageError
from pipeline.selection import selection_cli
from pipeline.selection.candidate_choice import choose_candidate
from pipeline.selection.candidate_record import STATUS_TRANSITIONS, CandidateStatus
from pipeline.selection.choice_folder import make_candidate_record, read_choice, register_choice, write_choice
from pipeline.selection.registry.model_registry import ModelRegistry, RegistryError
from pipeline.selection.registry.registry_location import LocalRegistry, open_registry
from pipeline.selection.registry.sagemaker_registry import SageMakerRegistry
from tests.kits.cloud.candidates import parts, write_parts, write_spotter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.selection.candidate_record import CandidateRecord


@dataclass(frozen=True, slots=True)
class Proposal:
    """A result with a proposed candidate, and a refused one's record."""

    result: Path
    refused: CandidateRecord
    refused_release: Path


@pytest.fixture(scope="module")
def proposal(tmp_path_factory: pytest.TempPathFactory) -> Proposal:
    root = tmp_path_factory.mktemp("proposal")
    data = write_parts(root / "data", parts(40, 10, 20, dusty=8))
    champion = write_spotter(root / "champion", 0.8)
    good, bad = write_spotter(root / "good", 0.6, version="1.1.0"), write_spotter(root / "bad", 0.5, version="1.2.0")
    choice = choose_candidate([good, bad], champion, data)
    assert choice.chosen == 0
    write_choice(choice, root / "result")
    return Proposal(root / "result", make_candidate_record(choice, 1, bad), bad)


@pytest.fixture
def sagemaker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with moto.mock_aws():
        place = {"LocationConstraint": "eu-central-1"}
        boto3.client("s3").create_bucket(Bucket="plant", CreateBucketConfiguration=place)
        yield boto3.client("sagemaker")


@pytest.fixture(params=["folder", "sagemaker"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> ModelRegistry:
    if request.param == "folder":
        return LocalRegistry(tmp_path / "registry")
    return SageMakerRegistry(request.getfixturevalue("sagemaker"), "plant")


def test_a_candidate_is_kept_with_release_card_and_history(
    kept: ModelRegistry, proposal: Proposal, tmp_path: Path
) -> None:
    entry = register_choice(
        kept, proposal.result, by="search", why="proposed", dataset_uri="s3://plant/data/1", trigger="t-1"
    )
    assert entry is not None
    assert entry == kept.get("spots", "1.1.0")
    assert [entry] == kept.list() == kept.list("spots")
    assert kept.list("others") == []
    assert entry.status is CandidateStatus.PENDING
    record = entry.record
    assert record.decision.outcome == "proposed"
    assert (record.dataset_uri, record.trigger) == ("s3://plant/data/1", "t-1")
    assert {"model.onnx", "golden.npz", "manifest.json"} == set(record.artifacts)
    assert record.artifacts_uri.endswith("/spots/1.1.0/release")
    folder = kept.download("spots", "1.1.0", tmp_path / "fetched")
    original = proposal.result / "release"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in original.iterdir()}
    with pytest.raises(RegistryError, match="exists"):
        kept.download("spots", "1.1.0", folder)


def test_what_was_tried_is_kept_with_lineage_also_where_it_was_refused(
    kept: ModelRegistry, proposal: Proposal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kept.list_choices("spots") == ()
    for _ in range(2):
        register_choice(kept, proposal.result, by="search", why="proposed")
    choice = read_choice(proposal.result)
    nothing = choice.model_copy(update={"chosen": None, "reasons": ("None is proposed.",)})
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "choice.json").write_text(nothing.model_dump_json(), encoding="utf-8")
    assert register_choice(kept, tmp_path / "nothing", by="search", why="tried") is None
    found = kept.list_choices("spots")
    assert sorted(found, key=lambda one: one.chosen is None) == [choice, nothing]
    assert [entry.record.version for entry in kept.list()] == ["1.1.0"]
    refused = found[0].assessments[1]
    assert not refused.proposable
    assert refused.lineage == proposal.refused.lineage
    if isinstance(kept, LocalRegistry):
        assert selection_cli.registry(["choices", "spots", "--registry", str(tmp_path / "registry")]) == 0
        assert all(reason in capsys.readouterr().out for reason in refused.reasons[:1])
        assert selection_cli.registry(["choices", "others", "--registry", str(tmp_path / "registry")]) == 0
        assert capsys.readouterr().out == "no candidates were compared\n"


def test_registering_the_same_result_again_changes_nothing(kept: ModelRegistry, proposal: Proposal) -> None:
    first = register_choice(kept, proposal.result, by="search", why="proposed")
    kept.set_status("spots", "1.1.0", CandidateStatus.APPROVED, by="ann", why="looks right")
    again = register_choice(kept, proposal.result, by="search", why="proposed")
    assert first is not None
    assert again is not None
    assert again.record == first.record
    assert [change.status for change in again.history] == [CandidateStatus.PENDING, CandidateStatus.APPROVED]


def test_another_model_under_the_same_version_is_refused(kept: ModelRegistry, proposal: Proposal) -> None:
    register_choice(kept, proposal.result, by="search", why="proposed")
    other = proposal.refused.model_copy(update={"version": "1.1.0"})
    with pytest.raises(RegistryError, match=r"spots/1\.1\.0 is registered already"):
        kept.register(other, proposal.refused_release, by="search", why="proposed")


def test_a_release_folder_that_is_not_the_records_is_refused(kept: ModelRegistry, proposal: Proposal) -> None:
    with pytest.raises(IntegrityError, match=r"manifest\.json is not the file that the record lists"):
        kept.register(proposal.refused, proposal.result / "release", by="search", why="proposed")
    assert kept.list() == []


def test_only_changes_of_the_table_are_made(kept: ModelRegistry, proposal: Proposal) -> None:
    register_choice(kept, proposal.result, by="search", why="proposed")
    for status in (
        CandidateStatus.APPROVED,
        CandidateStatus.RELEASED,
        CandidateStatus.ROLLED_BACK,
        CandidateStatus.APPROVED,
        CandidateStatus.REJECTED,
    ):
        before = kept.get("spots", "1.1.0").status
        for other in set(CandidateStatus) - STATUS_TRANSITIONS[before] - {before}:
            with pytest.raises(RegistryError, match=f"is {before} and cannot become {other}"):
                kept.set_status("spots", "1.1.0", other, by="ann", why="because")
        assert kept.set_status("spots", "1.1.0", status, by="ann", why="because").status is status
    assert len(kept.get("spots", "1.1.0").history) == 6
    assert kept.set_status("spots", "1.1.0", CandidateStatus.REJECTED, by="bob", why="again").history[-1].by == "ann"


def test_what_the_comparison_refused_cannot_be_approved(kept: ModelRegistry, proposal: Proposal) -> None:
    kept.register(proposal.refused, proposal.refused_release, by="search", why="for the record")
    with pytest.raises(RegistryError, match=r"was refused and cannot be approved: .*good parts"):
        kept.set_status("spots", "1.2.0", CandidateStatus.APPROVED, by="ann", why="I like it")


def test_a_change_without_a_name_or_a_reason_is_refused(kept: ModelRegistry, proposal: Proposal) -> None:
    register_choice(kept, proposal.result, by="search", why="proposed")
    for by, why in (("", "because"), ("ann", "  ")):
        with pytest.raises(UsageError, match="state who changes the status and why"):
            kept.set_status("spots", "1.1.0", CandidateStatus.APPROVED, by=by, why=why)


def test_of_two_changes_at_once_one_is_told_to_look_again(
    tmp_path: Path, proposal: Proposal, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = LocalRegistry(tmp_path)
    register_choice(kept, proposal.result, by="search", why="proposed")
    seen = kept.get("spots", "1.1.0")
    kept.set_status("spots", "1.1.0", CandidateStatus.APPROVED, by="ann", why="fine")
    monkeypatch.setattr(kept, "get", lambda *_: seen)  # what the second one read before the first one wrote
    with pytest.raises(RegistryError, match="was changed by someone else just now"):
        kept.set_status("spots", "1.1.0", CandidateStatus.REJECTED, by="bob", why="not fine")


def test_a_damaged_artifact_is_not_handed_out(tmp_path: Path, proposal: Proposal) -> None:
    kept = LocalRegistry(tmp_path / "registry")
    register_choice(kept, proposal.result, by="search", why="proposed")
    model = tmp_path / "registry" / "spots" / "1.1.0" / "release" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    with pytest.raises(IntegrityError, match="length or sha256 differ"):
        kept.download("spots", "1.1.0", tmp_path / "fetched")
    model.unlink()
    with pytest.raises(IntegrityError, match="Its record lists it: restore it"):
        kept.download("spots", "1.1.0", tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_whoever_adds_again_finishes_what_a_dead_process_began(tmp_path: Path, proposal: Proposal) -> None:
    kept = LocalRegistry(tmp_path)
    register_choice(kept, proposal.result, by="search", why="proposed")
    base = tmp_path / "spots" / "1.1.0"
    (base / "history" / "000001.json").unlink()  # died between record and history
    assert kept.get("spots", "1.1.0").status is CandidateStatus.PENDING
    assert register_choice(kept, proposal.result, by="search", why="proposed") is not None
    assert (base / "history" / "000001.json").is_file()
    (base / "record.json").unlink()  # died before the record
    assert kept.list() == []
    assert register_choice(kept, proposal.result, by="search", why="proposed") is not None


def test_sagemaker_mirrors_the_status_and_points_to_the_record(sagemaker: Any, proposal: Proposal) -> None:
    kept = SageMakerRegistry(sagemaker, "plant", prefix="models")
    entry = register_choice(kept, proposal.result, by="search", why="proposed")
    assert entry is not None
    arn = kept.package_arn("spots", "1.1.0")
    assert arn is not None
    assert arn.split("/")[-2:] == ["kensa-spots", "1"]

    def approval() -> str:
        return str(sagemaker.describe_model_package(ModelPackageName=arn)["ModelApprovalStatus"])

    assert approval() == "PendingManualApproval"
    for status, mirrored in (
        (CandidateStatus.APPROVED, "Approved"),
        (CandidateStatus.RELEASED, "Approved"),
        (CandidateStatus.ROLLED_BACK, "Rejected"),
    ):
        kept.set_status("spots", "1.1.0", status, by="ann", why="because")
        assert approval() == mirrored
    shown = sagemaker.describe_model_package(ModelPackageName=arn)
    source = shown["InferenceSpecification"]["Containers"][0]["ModelDataSource"]["S3DataSource"]
    assert source["S3Uri"] == "s3://plant/models/spots/1.1.0/release/"
    assert shown["ApprovalDescription"] == "RolledBack by ann: because"
    register_choice(kept, proposal.result, by="search", why="proposed")
    assert len(sagemaker.list_model_packages(ModelPackageGroupName="kensa-spots")["ModelPackageSummaryList"]) == 1


def test_a_second_model_of_the_group_and_a_missing_bucket(sagemaker: Any, proposal: Proposal) -> None:
    kept = SageMakerRegistry(sagemaker, "plant")
    register_choice(kept, proposal.result, by="search", why="proposed")
    kept.register(proposal.refused, proposal.refused_release, by="search", why="for the record")
    assert [entry.record.version for entry in kept.list()] == ["1.1.0", "1.2.0"]
    with pytest.raises(StorageError, match="There is no such bucket"):
        register_choice(SageMakerRegistry(sagemaker, "elsewhere"), proposal.result, by="search", why="proposed")


def test_a_registry_is_a_folder_or_a_bucket(tmp_path: Path, sagemaker: Any) -> None:
    assert isinstance(open_registry(tmp_path), LocalRegistry)
    assert isinstance(open_registry("s3://plant/registry", sagemaker=sagemaker), SageMakerRegistry)
    for wrong in ("https://plant", "s3://"):
        with pytest.raises(UsageError, match="is no registry"):
            open_registry(wrong)


def test_versions_are_listed_in_their_own_order(tmp_path: Path, proposal: Proposal) -> None:
    kept = LocalRegistry(tmp_path)
    for version in ("1.10.0", "1.9.0", "1.10.0-rc.1"):
        record = proposal.refused.model_copy(update={"version": version})
        kept.register(record, proposal.refused_release, by="search", why="order")
    assert [entry.record.version for entry in kept.list()] == ["1.9.0", "1.10.0-rc.1", "1.10.0"]


def test_the_command_adds_shows_approves_and_fetches(
    tmp_path: Path, proposal: Proposal, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--registry", str(tmp_path / "registry")]

    def say(*words: str) -> str:
        assert selection_cli.registry([*words, *where]) == 0
        return capsys.readouterr().out

    assert say("list") == "there are no candidates\n"
    assert say("add", str(proposal.result), "--by", "ann") == "spots/1.1.0: Pending\n"
    assert "spots/1.1.0" in say("list", "spots")
    shown = say("show", "spots/1.1.0")
    assert "better" in shown
    assert "ann: proposed by a comparison" in shown
    assert say("approve", "spots/1.1.0", "--by", "bob", "--why", "measured") == "spots/1.1.0: Approved\n"
    tree = json.loads(say("show", "spots/1.1.0", "--json"))
    assert tree["status"] == "Approved"
    assert tree["history"][-1]["by"] == "bob"
    assert json.loads(say("list", "--json"))["candidates"][0]["record"]["version"] == "1.1.0"
    say("fetch", "spots/1.1.0", "--out", str(tmp_path / "release"))
    assert (tmp_path / "release" / "manifest.json").is_file()
    assert say("reject", "spots/1.1.0", "--why", "second thoughts", "--json")
    with pytest.raises(UsageError, match="write NAME/VERSION"):
        selection_cli.registry(["show", "spots", *where])
    with pytest.raises(RegistryError, match=r"has no spots/9\.9\.9"):
        selection_cli.registry(["show", "spots/9.9.9", *where])


def test_the_result_on_disk_is_the_choice_with_a_card_for_people(proposal: Proposal) -> None:
    choice = read_choice(proposal.result)
    assert choice.proposed is not None
    assert choice.proposed.release == "release"
    markdown = (proposal.result / "card.md").read_text(encoding="utf-8")
    titles = ["Decision", "Intended use", "Data", "Metrics", "Slices of data", "Candidates", "Limits", "Lineage"]
    found = [markdown.index(f"## {title}\n") for title in titles]
    assert all(a < b for a, b in itertools.pairwise(found))
    page = (proposal.result / "card.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "<script" not in page
    assert "FAILS" not in page  # of the proposed one nothing does


def test_a_result_without_a_proposal_registers_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_parts(tmp_path / "data", parts(40, 10, 20, dusty=8))
    champion, bad = write_spotter(tmp_path / "champion", 0.8), write_spotter(tmp_path / "<b>|", 0.5)
    write_choice(choose_candidate([bad], champion, data), tmp_path / "result")
    where = ["--registry", str(tmp_path / "registry")]
    assert selection_cli.registry(["add", str(tmp_path / "result"), *where]) == selection_cli.REFUSED
    assert "proposes no candidate" in capsys.readouterr().out
    assert "FAILS" in (tmp_path / "result" / "card.md").read_text(encoding="utf-8")
    assert not (tmp_path / "result" / "release").exists()
