"""Signed releases through the composed agent, with both child processes and a restart."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from agent import app, config, wire
from agent.adapters.onnx import OnnxModel
from agent.lifecycle.state.transitions import LifecycleState
from agent.records import Outcome
from agent.release_records import DesiredRelease, Gate
from pipeline.repository.signing_keys import Expiry, KeyRing
from pipeline.repository.tuf_repository import Repository
from simulator.doubles.lifecycle import bad_models
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.releases import line_images, spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.lifecycle.lifecycle import Lifecycle

PATIENCE_S = 90.0
POLICY = {
    "shadow_parts": 60,
    "trial": [{"share": 0.5, "parts": 40}, {"share": 1.0, "parts": 80}],
    "latency_ratio": 50.0,  # the kit's model takes microseconds: on a busy machine ratios of those mean nothing
}
LIMITS = {
    "min_shadow_parts": 60,
    "min_trial_parts": 100,
    "shadow_max_fps": 500.0,
    "deadline_ms": 30_000.0,  # a busy machine is not what is tested
    "max_latency_ratio": 50.0,
    "probation_s": 0.0,
}


@pytest.fixture
def publisher(tmp_path: Path) -> Repository:
    keys = KeyRing.create(tmp_path / "keys", repository=str(tmp_path / "repository"), expiry=Expiry())
    repository = Repository(keys)
    repository.create(["hall-1"], {})
    return repository


@pytest.fixture
def settings(tmp_path: Path, publisher: Repository) -> config.Config:
    """A line that shows sixteen pictures, every second with a spot, over and over."""
    write_release(tmp_path / "factory")
    images = tmp_path / "images"
    images.mkdir()
    for index, image in enumerate(line_images()):
        cv2.imwrite(str(images / f"{index:02d}.png"), image)
    camera = {"kind": "folder", "path": str(images), "fps": 60, "loop": True}
    tree = {
        "thing": "thing",
        "line": "line",
        "state_dir": str(tmp_path / "state"),
        "inspections": {
            "spots": {"release": str(tmp_path / "factory"), "intake": {"policy": "wait"}, "cameras": {"cam": camera}}
        },
        "transport": {"kind": "none"},
        "updates": {
            "repository": str(tmp_path / "repository"),
            "root": str(publisher.keys.folder / "metadata" / "1.root.json"),
            "site": "hall-1",
            "limits": LIMITS,
        },
    }
    return config.parse(tree, source="test", base=tmp_path)


def publish(repository: Repository, folder: Path, *, release: Path | None = None, version: str, **changes: Any) -> None:
    """Publish a copy of the kit's release, or `release` as it is."""
    if release is None:
        release = write_release(folder / f"release-{version}", version=version, rollout=POLICY, **changes)
    repository.add(release, "hall-1")
    repository.publish()


def until(lifecycle: Lifecycle, is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_reached():
        assert time.monotonic() < deadline, (lifecycle.status(), lifecycle.history()[-5:])
        time.sleep(0.02)


def messages_of(transport: MemoryTransport) -> list[object]:
    """What a consumer of the line reads; the shadow's own topics are another matter."""
    return [wire.decode(m.payload) for m in transport.delivered if m.topic.startswith("kensa/")]


def active_version(lifecycle: Lifecycle) -> str | None:
    active = lifecycle.status().active
    return None if active is None else active.version


def assert_nothing_lost(agent: app.Agent) -> None:
    account = agent.cameras["cam"].counters.snapshot()
    assert (account.pending, sum(account.dropped.values())) == (0, 0)
    assert account.captured == account.inspected > 0


def test_a_published_release_passes_every_gate_judges_the_line_and_survives_a_restart(
    tmp_path: Path, publisher: Repository, settings: config.Config
) -> None:
    publish(publisher, tmp_path, version="1.1.0")
    transport = MemoryTransport()
    agent = app.build(settings, transport=transport)
    with agent:
        assert agent.lifecycle_manager is not None
        lifecycle = agent.lifecycle_manager.lifecycles["spots"]
        assert lifecycle.status().active is None  # the factory's
        lifecycle.desire(DesiredRelease("spots/1.1.0"))
        until(lifecycle, lambda: active_version(lifecycle) == "1.1.0")
    assert_nothing_lost(agent)
    deliveries = messages_of(transport)
    verdicts = {v.key: v for d in deliveries if isinstance(d, wire.DecodedVerdicts) for v in d.verdicts}
    arms = {verdict.arm for verdict in verdicts.values()}
    assert arms == {None, "champion", "challenger"}
    states = [report.state for report in deliveries if isinstance(report, wire.ModelReport)]
    assert next(s for s in states if s in {"fetching", "selftest", "shadow", "trial", "committed"}) == "fetching"
    assert "trial" in states

    again = app.build(settings, transport=MemoryTransport())
    with again:
        assert again.lifecycle_manager is not None
        assert active_version(again.lifecycle_manager.lifecycles["spots"]) == "1.1.0"
        lease = again.slots["spots"].lease()
        assert lease is not None
        assert (lease.model.identity.version, lease.model.identity.trusted) == ("1.1.0", True)


@pytest.mark.parametrize(
    ("kind", "gates"),
    [
        ("nan", {Gate.GOLDEN}),
        ("always_ok", {Gate.GOLDEN}),
        ("always_defect_unless_examined", {Gate.SHADOW, Gate.VERDICTS}),
    ],
)
def test_a_bad_release_is_refused_with_its_gate_and_figures_while_the_line_goes_on(
    tmp_path: Path, publisher: Repository, settings: config.Config, kind: str, gates: set[Gate]
) -> None:
    good = write_release(tmp_path / "good", rollout=POLICY)
    publish(
        publisher,
        tmp_path,
        release=bad_models.write_bad_release(kind, good, tmp_path / kind, version="6.6.6"),
        version="6.6.6",
    )
    agent = app.build(settings, transport=MemoryTransport())
    with agent:
        assert agent.lifecycle_manager is not None
        lifecycle = agent.lifecycle_manager.lifecycles["spots"]
        lifecycle.desire(DesiredRelease("spots/6.6.6"))
        until(
            lifecycle,
            lambda: lifecycle.status().refusal is not None and lifecycle.status().state == LifecycleState.IDLE,
        )
        status = lifecycle.status()
        assert status.active is None
        assert status.refusal is not None
        assert status.refusal.gate in gates
        assert status.refused is not None
        assert status.refused.version == "6.6.6"
        lifecycle.desire(DesiredRelease("spots/6.6.6", source="shadow"))  # asked again: still on the deny list
        time.sleep(0.5)
        assert lifecycle.status().state in {LifecycleState.IDLE, LifecycleState.FETCHING, LifecycleState.STAGED}
        lease = agent.slots["spots"].lease()
        assert lease is not None
        assert lease.model.identity.version == "1.0.0"
    assert_nothing_lost(agent)


def test_a_rollback_takes_effect_with_the_next_batch(
    tmp_path: Path, publisher: Repository, settings: config.Config
) -> None:
    publish(publisher, tmp_path, version="1.1.0")
    updates = settings.updates
    assert updates is not None
    kept = updates.model_copy(update={"limits": updates.limits.model_copy(update={"probation_s": 600.0})})
    agent = app.build(settings.model_copy(update={"updates": kept}), transport=MemoryTransport())
    with agent:
        assert agent.lifecycle_manager is not None
        lifecycle = agent.lifecycle_manager.lifecycles["spots"]
        lifecycle.desire(DesiredRelease("spots/1.1.0"))
        until(
            lifecycle, lambda: active_version(lifecycle) == "1.1.0" and lifecycle.status().state == LifecycleState.IDLE
        )
        lifecycle.rollback("it smells of burnt rubber")
        until(lifecycle, lambda: active_version(lifecycle) is None)
        lease = agent.slots["spots"].lease()
        assert lease is not None
        assert lease.model.identity.version == "1.0.0"
        assert lifecycle.deny_list()[-1]["release_id"] == "spots/1.1.0"
    assert_nothing_lost(agent)


def test_a_line_without_any_usable_model_is_safe_and_recovers_with_a_new_release(
    tmp_path: Path, publisher: Repository, settings: config.Config
) -> None:
    (tmp_path / "factory" / "model.onnx").write_bytes(b"worn out flash")
    publish(publisher, tmp_path, version="1.1.0")
    transport = MemoryTransport()
    agent = app.build(settings, transport=transport)
    with agent:
        assert agent.lifecycle_manager is not None
        lifecycle = agent.lifecycle_manager.lifecycles["spots"]
        until(lifecycle, lambda: lifecycle.status().state == LifecycleState.NO_MODEL)
        assert lifecycle.status().alarm
        until(lifecycle, lambda: agent.cameras["cam"].counters.snapshot().inspected > 10)
        lifecycle.desire(DesiredRelease("spots/1.1.0"))
        until(lifecycle, lambda: active_version(lifecycle) == "1.1.0")
        until(lifecycle, lambda: agent.cameras["cam"].counters.snapshot().outcomes.get(Outcome.OK, 0) > 0)
    assert_nothing_lost(agent)
    deliveries = messages_of(transport)
    outcomes = [v.judgement.outcome for d in deliveries if isinstance(d, wire.DecodedVerdicts) for v in d.verdicts]
    assert outcomes[0] is Outcome.UNKNOWN
    assert Outcome.OK in outcomes


def test_the_inspecting_process_never_imports_tuf_or_boto3(
    tmp_path: Path, publisher: Repository, settings: config.Config
) -> None:
    """In a process of its own: this one has imported the publisher's side."""
    import subprocess  # noqa: PLC0415 - only this test starts one
    import sys  # noqa: PLC0415

    publish(publisher, tmp_path, version="1.1.0")
    tree = json.loads(settings.model_dump_json())
    (tmp_path / "kensa.yaml").write_text(json.dumps(tree), encoding="utf-8")
    program = f"""
import sys, time
from pathlib import Path
from agent import app, config
from agent.release_records import DesiredRelease
from simulator.doubles.network.memory_transport import MemoryTransport
agent = app.build(config.load(Path({str(tmp_path / "kensa.yaml")!r})), transport=MemoryTransport())
with agent:
    lifecycle = agent.lifecycle_manager.lifecycles["spots"]
    lifecycle.desire(DesiredRelease("spots/1.1.0"))
    deadline = time.monotonic() + {PATIENCE_S}
    while lifecycle.status().active is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lifecycle.status().active is not None, lifecycle.status()
print([name for name in ("tuf", "securesystemslib", "boto3", "botocore", "onnx", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_kit_and_the_factory_judge_alike(settings: config.Config) -> None:
    model = OnnxModel.load(settings.inspections["spots"].release)
    images, _ = spot_images(16)
    assert np.count_nonzero(model.infer(images).scores[:, 1] > 0.5) == 8
