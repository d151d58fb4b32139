"""Self-test in its child process: good releases pass, every bad one ends at its gate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import cv2
import numpy as np
import psutil
import pytest

from agent.adapters.onnx import OnnxModel
from agent.errors import FetchError, ReleaseRefusedError
from agent.release.acceptance_set import AcceptanceSet
from agent.release_records import Gate
from simulator.doubles.lifecycle.bad_models import BAD_MODEL_KINDS, write_bad_release
from tests.kits.releases import golden_arrays, spot_images, write_release
from tests.kits.selftest import examine, golden_bytes, labelled_release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXAMINED = sorted(name for name, kind in BAD_MODEL_KINDS.items() if kind.reasons)
HIDDEN = sorted(name for name, kind in BAD_MODEL_KINDS.items() if not kind.reasons)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return labelled_release(tmp_path / "good")


def refused(call: Callable[[], object]) -> ReleaseRefusedError:
    with pytest.raises(ReleaseRefusedError) as caught:
        call()
    return caught.value


def not_now(call: Callable[[], object]) -> FetchError:
    with pytest.raises(FetchError) as caught:
        call()
    return caught.value


def is_examining(child: psutil.Process) -> bool:
    try:
        return "agent.selftest" in child.cmdline()
    except psutil.NoSuchProcess:  # a child of another test, which is just ending
        return False


def child_of_this_process() -> psutil.Process:
    """The examining child, once it is there and has laid its limits on itself."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for child in psutil.Process().children():
            if is_examining(child) and child.nice() == 10:
                return child
        time.sleep(0.01)
    pytest.fail("no examining child appeared")


# --- what passes ------------------------------------------------------------------------------------------------------


def test_a_good_release_passes_with_figures_and_an_optimised_graph_of_the_same_bits(good: Path) -> None:
    candidate = labelled_release(good.parent / "candidate", version="1.1.0")

    passed = examine(candidate, champion=good)

    assert passed.figures["golden_difference"] < 1e-4
    assert passed.figures["golden_defects"] == 60
    assert passed.figures["candidate_defects_wrong"] == 0
    assert passed.figures["latency_ratio"] > 0
    assert passed.figures["extra_memory_bytes"] >= 0
    assert passed.optimised is not None
    images, _ = spot_images(16)
    plain = OnnxModel.load(candidate).infer(images)
    quick = OnnxModel.load(candidate, optimised=passed.optimised, optimised_sha256=passed.optimised_sha256).infer(
        images
    )
    assert np.array_equal(plain.scores, quick.scores)
    assert plain.evidence is not None
    assert quick.evidence is not None
    assert np.array_equal(plain.evidence, quick.evidence)


def test_the_first_release_of_all_needs_no_champion(good: Path) -> None:
    figures = examine(good).figures

    assert figures["candidate_ms"] > 0
    assert "latency_ratio" not in figures


def test_a_release_folder_that_nobody_may_write_to_is_examined_all_the_same(good: Path) -> None:
    good.chmod(0o555)

    assert examine(good).optimised is not None


# --- the bad models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXAMINED)
def test_every_bad_model_ends_at_its_gate(good: Path, kind: str) -> None:
    bad = write_bad_release(kind, good, good.parent / kind, version="2.0.0", seed=3)

    error = refused(lambda: examine(bad, champion=good, cpu_s=3.0 if kind == "stall" else 60.0))

    assert {Gate(error.gate)} == BAD_MODEL_KINDS[kind].caught_by
    assert error.reason in BAD_MODEL_KINDS[kind].reasons
    if error.gate in {Gate.GOLDEN, Gate.LATENCY}:
        assert error.figures.keys() >= error.limits.keys() > set()


@pytest.mark.parametrize("kind", ["always_ok", "always_defect", "misses_10_percent"])
def test_a_forged_golden_set_would_pass_without_the_running_models_labels(good: Path, kind: str) -> None:
    bad = write_bad_release(kind, good, good.parent / kind, version="2.0.0")

    assert examine(bad).figures["golden_agreement"] == 1.0


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_model_that_knows_the_golden_pictures_is_caught_by_the_sites_own_parts(good: Path, kind: str) -> None:
    bad = write_bad_release(kind, good, good.parent / kind, version="2.0.0")
    site = AcceptanceSet(good.parent / "acceptance")
    for spot in (False, True):
        site.add(encoded(spot=spot), label="defect" if spot else "ok", by="me", origin="test", now_utc_ns=0)

    examine(bad, champion=good)  # the release's and the champion's golden set see nothing
    error = refused(lambda: examine(bad, champion=good, acceptance=site.folder))

    assert (error.gate, error.reason) in {("acceptance", "misses_defects"), ("acceptance", "rejects_good_parts")}
    assert "is classified" in str(error)


def test_the_share_of_hidden_misses_is_one_in_ten(good: Path) -> None:
    model = OnnxModel.load(write_bad_release("misses_10_percent", good, good.parent / "bad", version="2.0.0", seed=7))
    images, _ = spot_images(2_000)

    missed = int((model.infer(images[1::2]).scores[:, 1] < 0.5).sum())

    assert 60 <= missed <= 140  # of 1,000


def test_equal_seeds_give_equal_bad_models(good: Path) -> None:
    first, second = (
        write_bad_release("slow", good, good.parent / name, version="2.0.0", seed=5) for name in ("a", "b")
    )

    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()


# --- the golden set ---------------------------------------------------------------------------------------------------


def test_labels_that_the_model_contradicts_are_a_refusal(good: Path) -> None:
    images, labels = spot_images(40)
    arrays = golden_arrays(images, ["spot" if label == "ok" else "ok" for label in labels])
    write_release(good, golden=golden_bytes(arrays))

    error = refused(lambda: examine(good))

    assert (error.gate, error.reason) == ("golden", "misses_defects")
    assert error.figures["golden_defects_wrong"] == 20
    assert error.limits["golden_defects_wrong"] == 10


@pytest.mark.parametrize("labels", [np.array([2] * 8), np.array([0.5] * 8), np.array([0] * 7), np.array(["ok"] * 8)])
def test_labels_that_are_no_classes_are_refused(good: Path, labels: object) -> None:
    write_release(good, golden=golden_bytes({**golden_arrays(*spot_images()), "labels": labels}))

    error = refused(lambda: examine(good))

    assert (error.gate, error.reason) == ("golden", "unreadable")
    assert "labels" in str(error)


def test_a_reference_with_numbers_that_are_none_is_refused(good: Path) -> None:
    arrays = golden_arrays(*spot_images())
    arrays["scores"][0, 0] = np.nan
    write_release(good, golden=golden_bytes(arrays))

    assert refused(lambda: examine(good)).reason == "unreadable"


# --- the site ---------------------------------------------------------------------------------------------------------


def encoded(*, spot: bool) -> bytes:
    pixels = np.full((32, 32), 22, np.uint8)
    if spot:
        pixels[8:16, 16:24] = 240
    return bytes(cv2.imencode(".png", pixels)[1])


def test_the_sites_thresholds_count_in_its_acceptance_set(good: Path) -> None:
    site = AcceptanceSet(good.parent / "acceptance")
    site.add(encoded(spot=True), label="spot", by="me", origin="test", now_utc_ns=0)

    figures = examine(good, acceptance=site.folder).figures
    error = refused(
        lambda: examine(good, acceptance=site.folder, site={"thresholds": {"spot": 0.99}, "unsure_band": 0.0})
    )

    assert (figures["acceptance_defects"], figures["acceptance_defects_wrong"]) == (1, 0)
    assert (error.gate, error.reason) == ("acceptance", "misses_defects")


def test_a_threshold_of_the_site_for_a_class_that_the_release_lacks_is_refused_here_not_on_the_line(good: Path) -> None:
    error = refused(lambda: examine(good, site={"thresholds": {"dent": 0.5}}))

    assert (error.gate, error.reason) == ("contract", "classes")


def test_a_damaged_acceptance_set_is_no_fault_of_the_release(good: Path) -> None:
    site = AcceptanceSet(good.parent / "acceptance")
    part, _ = site.add(encoded(spot=True), label="defect", by="me", origin="test", now_utc_ns=0)
    (site.folder / part.file_name).write_bytes(b"x")

    assert not_now(lambda: examine(good, acceptance=site.folder)).reason == "self_test_acceptance"


def test_a_damaged_champion_is_no_fault_of_the_release(good: Path) -> None:
    champion = labelled_release(good.parent / "champion")
    (champion / "model.onnx").write_bytes(b"x")

    assert not_now(lambda: examine(good, champion=champion)).reason == "self_test_champion"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden.npz"])
def test_links_in_place_of_files_are_refused(good: Path, name: str) -> None:
    (good / name).rename(good.parent / "elsewhere")
    (good / name).symlink_to(good.parent / "elsewhere")

    assert refused(lambda: examine(good)).reason == "not_a_file"


def test_a_changed_byte_is_named_damaged(good: Path) -> None:
    data = bytearray((good / "golden.npz").read_bytes())
    data[100] ^= 1
    (good / "golden.npz").write_bytes(data)

    assert refused(lambda: examine(good)).reason == "damaged"


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def endless(good: Path) -> Path:
    """Within the static policy, and busy for minutes."""
    return write_bad_release("stall", good, good.parent / "stall", version="2.0.0")


def test_a_model_that_does_not_end_is_killed_at_the_wall_limit(endless: Path) -> None:
    began = time.monotonic()
    try:
        examine(endless, wall_s=2.0)
        pytest.fail("it came to an end")
    except ReleaseRefusedError as error:
        assert (error.gate, error.reason) == ("self_test", "timeout")  # noqa: PT017 - either is right
    except FetchError as error:
        assert error.reason == "self_test_no_cpu_time"  # noqa: PT017 - the machine had no time for it

    assert time.monotonic() - began < 30
    assert not [c for c in psutil.Process().children() if is_examining(c)]


def test_a_stop_ends_the_examination_at_once(endless: Path) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(not_now, lambda: examine(endless, stop=stop))
        child = child_of_this_process()
        stop.set()
        assert running.result(timeout=120).reason == "stopped"
    assert not child.is_running()


def test_a_child_that_someone_else_kills_is_tried_again_later(endless: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(not_now, lambda: examine(endless))
        child_of_this_process().kill()
        assert running.result(timeout=120).reason == "self_test_killed"


def test_the_child_is_niced_limited_and_knows_no_secret(endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KENSA_TEST_SECRET", "do-not-tell")
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(not_now, lambda: examine(endless, stop=stop, memory_bytes=900_000_000, cpu_s=30.0))
        child = child_of_this_process()
        try:
            wait_for_limits(child)
            assert child.rlimit(psutil.RLIMIT_AS) == (900_000_000, 900_000_000)
            assert child.rlimit(psutil.RLIMIT_CPU) == (30, 35)
            assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)
            assert child.rlimit(psutil.RLIMIT_NOFILE) == (64, 64)
            assert os.getpgid(child.pid) == child.pid
            assert "KENSA_TEST_SECRET" not in child.environ()
        finally:
            stop.set()
        running.result(timeout=120)


def wait_for_limits(child: psutil.Process) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.rlimit(psutil.RLIMIT_NOFILE) != (64, 64):
        time.sleep(0.01)


def test_the_child_dies_with_its_parent(endless: Path) -> None:
    code = f"from tests.kits.selftest import examine; from pathlib import Path; examine(Path({str(endless)!r}))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        child = wait_for_grandchild(parent.pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _, alive = psutil.wait_procs([child], timeout=120)
        assert not alive
    finally:
        parent.kill()
        parent.wait()


def wait_for_grandchild(pid: int) -> psutil.Process:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            if child.nice() == 10:  # its limits are being laid: the tie to the parent is the first of them
                return child
        time.sleep(0.01)
    pytest.fail("no examining child appeared")


def test_a_model_that_takes_too_much_memory_beside_the_running_one_is_refused(good: Path) -> None:
    greedy = write_bad_release("slow", good, good.parent / "greedy", version="2.0.0")

    error = refused(lambda: examine(greedy, champion=good, latency_ratio=1e6, extra_memory_bytes=100_000))

    assert (error.gate, error.reason) == ("memory", "too_large")
    assert error.figures["extra_memory_bytes"] > error.limits["extra_memory_bytes"] == 100_000


def test_the_inspecting_process_does_not_load_the_examination() -> None:
    code = (
        "import sys, agent.app, agent.children.selftest_client; "
        "sys.exit(any(name.split('.')[:2] == ['agent', 'exam'] for name in sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
