"""What `kensa bench faults` promises about its campaigns and its keys."""

from __future__ import annotations

import json

import pytest

from simulator.bench import cli
from simulator.bench.fault_campaigns import (
    CAMPAIGNS,
    SECTIONS,
    CampaignOutcome,
    CampaignResult,
    FaultsResult,
    run_faults,
)


def result(*, met: bool, missing: str | None = None) -> CampaignResult:
    counted = None if missing else CampaignOutcome("0 of 5", met, {"lost": 0})
    return CampaignResult("outbox_kills", "5 kills", "0", 5, counted, missing, 1.0)


def test_every_fault_of_the_table_has_a_campaign_with_its_full_count() -> None:
    assert {campaign.name: campaign.count for campaign in CAMPAIGNS} == {
        "outbox_kills": 1_000,
        "power_cuts": 40,
        "lifecycle_kills": 1_000,
        "collector_kills": 200,
        "mutated_models": 10_000,
        "mutated_metadata": 3_000,
        "equally_good": 200,
        "always_ok": 20,
        "always_defect": 20,
        "bad_models": 20,
        "unusable_images": 10_000,
        "good_images": 100_000,
        "starts_mosquitto": 100,
        "starts_iotcore": 100,
        "starts_amqtt": 100,
        "reject_chart": 400,
        "faulty_broker": 100,
        "soak": 24,
    }


def test_the_campaigns_asked_for_run_with_their_share_and_are_told_as_they_go() -> None:
    said: list[str] = []

    found = run_faults(only=["always_ok", "always_defect"], share=0.1, seed=3, report=said.append)

    assert [campaign.count for campaign in found.campaigns] == [2, 2]
    assert found.is_clean
    told = found.to_json()
    assert told["always_ok"]["refused"] == 2
    assert told["always_ok"]["met"] is True
    assert len(said) == 4


def test_a_campaign_that_this_machine_cannot_run_is_named_and_spoils_nothing() -> None:
    found = FaultsResult((result(met=True), result(met=True, missing="a loop device")), 0, 1.0)

    assert found.is_clean
    assert found.campaigns[1].to_json() == {"count": 5, "target": "0", "met": None, "missing": "a loop device"}
    assert not FaultsResult((result(met=False),), 0, 1.0).is_clean


def test_the_command_prints_one_json_object_with_a_key_for_each_campaign(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["faults", "--quick", "--json", "--only", "always_ok", "--seed", "1"]) == 0

    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["always_ok"]["count"] == 2
    assert told["is_clean"] is True
    assert "always_ok" in printed.err


def test_an_unknown_campaign_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["faults", "--only", "weather"])

    assert SECTIONS[0] in capsys.readouterr().err
