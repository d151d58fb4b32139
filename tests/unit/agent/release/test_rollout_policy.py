"""A release says how it wants to be tried; the site has the last word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.config import RolloutLimits
from agent.errors import ManifestError
from agent.release import manifest as manifests
from agent.release.rollout_policy import RolloutPolicy, TrialStep, apply_site_limits, self_test_limits
from tests.kits.releases import manifest_tree
from tests.kits.requirements import ROOT

LIMITS = RolloutLimits()


def policy(**fields: Any) -> RolloutPolicy:
    return RolloutPolicy.model_validate(fields)


def manifest(rollout: object) -> manifests.Manifest:
    return manifests.parse_manifest(json.dumps(manifest_tree() | {"rollout": rollout}).encode())


def test_an_empty_rollout_is_the_default_policy_and_is_written_as_it_was() -> None:
    read = manifest({})

    assert read.rollout == RolloutPolicy()
    assert json.loads(read.to_json())["rollout"] == {}


def test_the_bundled_manifest_is_written_byte_for_byte_as_it_was_read() -> None:
    data = (Path(ROOT) / "releases/default/manifest.json").read_bytes()

    assert manifests.parse_manifest(data).to_json() == data


@pytest.mark.parametrize(
    "given",
    [
        {"shadow_parts": 300},
        {"trial": [{"share": 0.5, "parts": 10}, {"share": 1.0, "parts": 20}], "e_threshold": 500.0},
        {"disagreement": {"good": 0.002, "bad": 0.01}},
    ],
)
def test_a_rollout_is_written_with_the_fields_that_were_given(given: dict[str, Any]) -> None:
    read = manifest(given)

    assert json.loads(read.to_json())["rollout"] == given
    assert manifests.parse_manifest(read.to_json()) == read
    assert manifests.parse_manifest(read.to_json()).to_json() == read.to_json()


@pytest.mark.parametrize(
    ("rollout", "complaint"),
    [
        ({"surprise": 1}, "rollout.surprise: Extra inputs are not permitted"),
        ({"shadow_parts": 0}, "rollout.shadow_parts: Input should be greater than or equal to 1"),
        ({"trial": []}, "rollout.trial: Tuple should have at least 1 item"),
        ({"trial": [{"share": 0.0, "parts": 1}]}, "rollout.trial.0.share: Input should be greater than 0"),
        (
            {"trial": [{"share": 0.5, "parts": 1}, {"share": 0.5, "parts": 1}]},
            "trial shares must grow from step to step, got [0.5, 0.5]",
        ),
        ({"disagreement": {"good": 0.03, "bad": 0.03}}, "good 0.03 must be below bad 0.03"),
        ({"errors": {"good": 0.001, "bad": 0.5}}, "errors.bad and deadlines.bad must not be above 0.05"),
        ({"psi_warn": 0.5}, "psi_warn 0.5 must not be above psi_block 0.25"),
        ({"psi_window": 999}, "rollout.psi_window: Input should be greater than or equal to 1000"),
        ({"e_hold": 50, "e_threshold": 20}, "e_hold 50.0 must not be above e_threshold 20.0"),
        ({"e_threshold": 1e9}, "rollout.e_threshold: Input should be less than or equal to 10000"),
        (3, "rollout: Input should be a valid dictionary"),
    ],
)
def test_a_senseless_rollout_is_refused_by_name(rollout: object, complaint: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest(rollout)

    assert complaint in str(caught.value)


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RolloutPolicy().shadow_parts = 1


def test_a_release_cannot_be_laxer_than_the_site() -> None:
    lax = policy(
        shadow_parts=1,
        trial=[{"share": 0.1, "parts": 5}, {"share": 1.0, "parts": 5}],
        disagreement={"good": 0.2, "bad": 0.3},
        deadline_ms=60_000.0,
        latency_ratio=50.0,
        extra_memory_bytes=1024**4,
    )

    allowed = apply_site_limits(lax, LIMITS)

    assert allowed.shadow_parts == LIMITS.min_shadow_parts
    assert allowed.trial == (TrialStep(share=0.1, parts=5), TrialStep(share=1.0, parts=LIMITS.min_trial_parts - 5))
    assert allowed.disagreement.bad == LIMITS.max_disagreement
    assert allowed.disagreement.good == pytest.approx(0.01)
    assert allowed.deadline_ms == LIMITS.deadline_ms
    assert allowed.latency_ratio == LIMITS.max_latency_ratio
    assert allowed.extra_memory_bytes == LIMITS.max_extra_memory_bytes


def test_a_publisher_cannot_switch_a_gate_off() -> None:
    off = policy(
        disagreement={"good": 0.0299, "bad": 0.03},
        errors={"good": 0.0499, "bad": 0.05},
        deadlines={"good": 0.0499, "bad": 0.05},
        e_threshold=10_000.0,
        e_hold=100.0,
        psi_window=100_000,
        psi_warn=1.0,
        psi_block=1.0,
        golden_difference=1.0,
        golden_agreement=0.5,
        golden_recall=0.0,
        may_reject_more=True,
        may_pass_more=True,
    )

    allowed = apply_site_limits(off, LIMITS)

    assert (allowed.errors.bad, allowed.deadlines.bad) == (0.01, 0.01)
    for rates in (allowed.disagreement, allowed.errors, allowed.deadlines):
        assert rates.good == pytest.approx(rates.bad / 3)
    assert (allowed.e_threshold, allowed.e_hold) == (1_000.0, 20.0)
    assert (allowed.psi_window, allowed.psi_warn, allowed.psi_block) == (5_000, 0.25, 0.25)
    examined = self_test_limits(off, LIMITS)
    assert (examined.golden_difference, examined.golden_agreement, examined.golden_recall) == (0.1, 0.98, 0.5)
    assert allowed.may_reject_more
    assert not apply_site_limits(off, RolloutLimits(allow_reject_more=False)).may_reject_more
    assert not allowed.may_pass_more
    assert apply_site_limits(off, RolloutLimits(allow_pass_more=True)).may_pass_more


def test_a_site_may_allow_more_than_the_defaults() -> None:
    asked = policy(psi_window=100_000, e_threshold=5_000.0, errors={"good": 0.01, "bad": 0.05}, golden_agreement=0.9)
    site = RolloutLimits(max_psi_window=100_000, max_e_value=10_000.0, max_error_rate=0.05, min_golden_agreement=0.5)

    assert apply_site_limits(asked, site) == asked.model_copy(update={"deadline_ms": site.deadline_ms})


def test_a_release_may_be_stricter_than_the_site() -> None:
    strict = policy(
        shadow_parts=5_000,
        trial=[{"share": 1.0, "parts": 50_000}],
        disagreement={"good": 0.001, "bad": 0.01},
        deadline_ms=20.0,
        latency_ratio=1.1,
        extra_memory_bytes=1024**2,
    )

    assert apply_site_limits(strict, LIMITS) == strict


def test_the_default_policy_takes_the_deadline_of_the_site() -> None:
    assert apply_site_limits(RolloutPolicy(), LIMITS) == policy(deadline_ms=LIMITS.deadline_ms)


def test_a_site_that_allows_no_disagreement_still_gets_a_test() -> None:
    allowed = apply_site_limits(RolloutPolicy(), RolloutLimits(max_disagreement=0.0))

    assert allowed.disagreement.bad == 1e-4
    assert allowed.disagreement.plan().good < 1e-4


def test_the_self_test_takes_the_stricter_of_both_and_the_acceptance_of_the_site() -> None:
    limits = RolloutLimits(max_latency_ratio=1.2, max_extra_memory_bytes=2 * 1024**2, acceptance_recall=0.97)

    allowed = self_test_limits(policy(golden_recall=0.95), limits)

    assert (allowed.latency_ratio, allowed.extra_memory_bytes) == (1.2, 2 * 1024**2)
    assert (allowed.golden_recall, allowed.acceptance_recall) == (0.95, 0.97)
