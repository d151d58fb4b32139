"""A search end to end: child processes, one choice, a registry, and the same bytes again."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from agent.release import manifest as manifests
from pipeline import model_cli
from pipeline.sagemaker.job_entry import log_progress
from pipeline.search.local_jobs import LocalTrainingJobs
from pipeline.search.search_runner import SearchError, run_search
from pipeline.search.search_space import read_settings
from pipeline.selection import selection_cli
from pipeline.selection.reproduction import reproduce
from pipeline.selection.training_plan import TrainingPlan
from tests.kits.cloud.training import write_parts
from tests.kits.requirements import require

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]

SEARCH = """
name: parts
base: {net: tiny, epochs: 6, batch: 16, threads: 1}
vary: {learning_rate: [0.004, 0.008], label_smoothing: [0.05]}
seeds: [0]
halving: {eta: 3, finalists: 1}
"""


@pytest.fixture(autouse=True)
def _torch() -> None:
    try:
        import torch  # noqa: F401, PLC0415
    except ImportError:
        require(condition=False, what_is_missing="torch", remedy="install the extra `train`")


def quiet(step: str, done: int, total: int, note: str = "") -> None:
    """Show nothing."""


def test_a_search_proposes_a_candidate_goes_on_where_it_was_and_can_be_reproduced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, champion = tmp_path / "data", tmp_path / "out", tmp_path / "champion"
    write_parts(data, train=24, val=20, masks=False)
    basics = ["--data", str(data), "--net", "tiny", "--threads", "1"]
    assert model_cli.train([*basics, "--out", str(champion), "--epochs", "1", "--learning-rate", "1e-6"]) == 0
    (tmp_path / "search.yaml").write_text(SEARCH)
    registry = str(tmp_path / "registry")
    words = ["--search", "--search-file", str(tmp_path / "search.yaml"), "--data", str(data), "--out", str(out)]
    words += ["--champion", str(champion), "--registry", registry, "--json"]
    capsys.readouterr()
    assert model_cli.train(words) == 0
    result = json.loads(capsys.readouterr().out)
    report = json.loads((out / "search.json").read_text())["trainings"]
    assert [(line["round"], line["plan"]["parameters"]["epochs"]) for line in report] == [(1, 2), (1, 2), (2, 6)]
    assert not any(line["reused"] for line in report)
    assert result["chosen"] == 0
    assert manifests.read_manifest(out / "release").version == "0.2.0"  # the champion's next minor one

    (out / "trainings" / report[2]["label"] / "model" / "release" / "manifest.json").unlink()  # as if stopped there
    assert model_cli.train(words) == 0
    again = json.loads((out / "search.json").read_text())["trainings"]
    assert [line["reused"] for line in again] == [True, True, False]
    assert _but_for_times(json.loads(capsys.readouterr().out)) == _but_for_times(result)

    assert selection_cli.reproduce(["parts/0.2.0", "--registry", registry, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "identical"
    shutil.rmtree(data / "val" / "spot")
    assert model_cli._exit_code_of(lambda: selection_cli.reproduce(["parts/0.2.0", "--registry", registry])) == 2
    assert "the plan was made for" in capsys.readouterr().err


def _but_for_times(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The assessments without when each candidate was trained and how long it took: all that may differ."""
    times = {"created_utc", "duration_s"}
    return [
        one | {"lineage": {key: value for key, value in one["lineage"].items() if key not in times}}
        for one in result["assessments"]
    ]


def test_a_failed_training_costs_itself_only_and_all_failing_is_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_parts(data, train=8, val=8, masks=False)
    path = tmp_path / "search.yaml"
    path.write_text("{name: parts, base: {epochs: 1, threads: 1}, vary: {net: [tiny, huge]}, halving: null}")
    choice, report = run_search(read_settings(path), data, tmp_path / "out", None, progress=quiet)
    assert choice.proposed is not None
    (failed,) = report.failed
    assert "--net 'huge' is not known" in failed.failure
    path.write_text("{name: parts, base: {net: huge, epochs: 1, threads: 1}}")
    with pytest.raises(SearchError, match=r"no training succeeded\. The first one: .*'huge' is not known"):
        run_search(read_settings(path), data, tmp_path / "out", None, progress=quiet)


def test_other_bytes_are_no_reproduction_here_and_a_comparison_of_figures_elsewhere(tmp_path: Path) -> None:
    data, release = tmp_path / "data", tmp_path / "release"
    write_parts(data, train=8, val=8, masks=False)
    words = ["--data", str(data), "--out", str(release), "--net", "tiny", "--threads", "1", "--epochs", "1"]
    assert model_cli.train(words) == 0
    made = manifests.read_manifest(release)

    def claim(**changes: object) -> None:
        """Let the lineage say something else."""
        lineage = made.lineage.model_copy(update=changes)
        (release / "manifest.json").write_bytes(made.model_copy(update={"lineage": lineage}).to_json())

    claim(parameters={**made.lineage.parameters, "seed": 9}, seed=9)
    same_place = reproduce(release, data, tolerance=1.0, progress=log_progress)
    assert same_place.outcome == "close"
    assert not same_place.is_reproduced
    assert "NOT reproduced: CPU type, threads, libraries and code are the same" in same_place.text()

    claim(parameters={**made.lineage.parameters, "seed": 9}, seed=9, cpu="another one")
    assert reproduce(release, data, tolerance=1.0, progress=log_progress).is_reproduced
    strict = reproduce(release, data, tolerance=0.0, progress=log_progress)
    assert strict.outcome in {"close", "different"}  # close when the figures happen to be equal
    assert "cpu: another one -> " in strict.text()


def test_a_training_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_parts(data, train=24, val=8, masks=False)
    endless = TrainingPlan(name="m", version="1.0.0", parameters={"net": "large", "epochs": 100_000, "threads": 1})
    (done,) = LocalTrainingJobs(tmp_path / "trainings", data, workers=1, timeout_s=1.0).run([endless])
    assert done.failure == "it took longer than 1 s"
    assert done.manifest is None
