"""Remedies: what a person should do about a refusal, by its reason.

The line always continues with the model it had. A gate says where a release was stopped and a reason says why, and only
the reason determines what helps: the golden set stops a model that misses defects as well as one that another processor
computes differently. `remedy` is complete: a test compares it with every reason in the code. An unknown reason, of
another version, gets the remedy of its gate.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - of module constants
from typing import Final

from agent.release_records import Gate

_RETRIED: Final = "it is tried again automatically"
_CPU: Final = "than where the model was made: see `kensa doctor`, and train it with --target-cpu any"
_RUN: Final = "`kensa model acceptance run CONFIG --release DIR` names the site's"
_REMEDY_AT_GATE: Final[Mapping[tuple[str, Gate], str]] = {  # of reasons that more than one gate has
    ("misses_defects", Gate.ACCEPTANCE): f"{_RUN} defects that it misses: train with parts like them, or take wrong "
    "labels out with `kensa model acceptance remove`",
    ("rejects_good_parts", Gate.ACCEPTANCE): f"{_RUN} good parts that it rejects: train with parts like them",
    ("too_large", Gate.MEMORY): "publish a smaller model, or raise updates.limits.max_extra_memory_bytes",
    ("timeout", Gate.SELF_TEST): "it does not end in time: have it examined, or publish a smaller model",
}
_REMEDY_BY_REASON: Final[Mapping[str, str]] = {
    # origin
    "target_revoked": "wait for another release: its publisher revoked this one",
    "revoked_by_publisher": "wait for another release: its publisher revoked this one",
    "other_release": "ask the publisher: the repository answers with a release that was not requested",
    "counter_below_floor": "publish the old bytes again under a new counter, or use `kensa model rollback`",
    "rolled_back": "`kensa model retry` allows it again when whoever ended it agrees",
    # contents
    "manifest_refused": "export it again with this version of Kensa, or update the agent first",
    "manifest": "export it again with this version of Kensa, or update the agent first",
    "name_differs": "publish it under the name that its manifest has",
    "counter_missing": "add it with `kensa release add`, which gives it a counter",
    "graph_policy": "export it again with `kensa train`: only its operators and sizes are allowed",
    "interface": "export it again with `kensa train`: inputs or outputs are not those of the model contract",
    "cannot_be_loaded": "export it again with `kensa train`, and try it with `kensa model verify --release DIR`",
    "classes": "correct `thresholds` of the inspection, or train the release with the class that it lacks",
    "site_thresholds": "correct `thresholds` of the inspection, or train the release with the class that it lacks",
    "damaged": "find out who writes to the state directory: a file changed after it was checked",
    "not_a_file": "find out who writes to the state directory: there is a link or a folder where a file must be",
    "changed_on_disk": "check the disk, then request the release again: it is fetched again",
    "too_large": "publish a smaller release, or raise updates.max_release_bytes",
    # self-test
    "cpu_time": "it takes too long: publish a smaller model",
    "memory": "it takes too much memory: publish a smaller model",
    "crash": "it crashes the runtime: have the model examined, do not retry it",
    "output": "it disturbs the self-test: have the model examined, do not retry it",
    "inference_failed": "it fails on an image: have the model examined",
    "attempts_exhausted": "find out why the process ended (log, power, memory), then `kensa model retry`",
    "boot_loop": "the log of the last three starts says why the agent ended; then publish a mended release",
    "too_many_transitions": "report it with the log and `kensa model history`",
    "not_finite": "its scores are no numbers: train it again",
    "unreadable": "its golden set cannot be used: export it again",
    "scores_differ": f"this machine computes something else {_CPU}",
    "outcomes_differ": f"this machine decides otherwise {_CPU}",
    "misses_defects": "it misses defects of its own golden set: train it longer or with more such defects",
    "rejects_good_parts": "it rejects good parts of its own golden set: train it longer, or raise its thresholds",
    "misses_more_than_champion": "it misses defects that the running model finds: train it with more such defects",
    "rejects_more_than_champion": "it rejects good parts that the running model passes: train it with more good parts",
    "too_slow": "publish a smaller model, or raise updates.limits.max_latency_ratio",
    # on the line
    "disagrees": "check the parts (`kensa model ab report --pictures`); if it is right, compare both in an A/B test, "
    "or publish it with a larger rollout.disagreement",
    "gives_no_judgement": "the text says what fails: correct the model or the camera's image",
    "too_late": "publish a faster model, give the line more cores, or raise updates.limits.deadline_ms",
    "lets_more_through": "label the parts that it lets through (`kensa model acceptance add`); train with them if they "
    "are bad, publish with rollout.may_pass_more if they are good",
    "rejects_more": "label the parts that it rejects with `kensa model acceptance add`; train with them if they are "
    "good, publish with rollout.may_reject_more if they are bad",
    "scores_shifted": "check for a lost bias or different preprocessing in its export",
    "scores_drifted": "train it with images of today's light: it does not tolerate what the running model tolerates",
    "shadow_not_passed": "`kensa model retry` when the line runs again, or raise updates.limits.max_hours",
    "trial_not_passed": "`kensa model retry` when the line runs again, or raise updates.limits.max_hours",
    # on the way here: none of these is the release's fault
    "busy": _RETRIED,
    "stopped": _RETRIED,
    "fetcher_crashed": f"{_RETRIED}; the log, if it goes on",
    "timeout": f"{_RETRIED}; a faster network, or a larger updates.fetch_timeout_s",
    "slow_retrieval": f"{_RETRIED}; check the network",
    "unreachable": f"{_RETRIED}; check network, address and medium",
    "missing_file": f"{_RETRIED}; publish or copy the repository again",
    "target_unknown": "check `kensa release show`, name, version and updates.site",
    "no_space": "make room in the state directory",
    "storage": "check the permissions and the disk of the state directory",
    "root_unusable": "bring 1.root.json again",
    "missing_package": "pip install 'kensa[aws]'",
    "request": "correct updates.repository: an address has no user, query or fragment",
    "metadata_expired": "`kensa release publish --refresh` at the publisher; check this device's clock",
    "metadata_rollback": "somebody replays old metadata, or the repository was restored: rotate timestamp and snapshot",
    "mix_and_match": "publish or copy the repository again",
    "arbitrary_software": "find out who can write to the repository, then publish again",
    "endless_data": "find out who can write to the repository",
    "fast_forward": "a stolen key? rotate timestamp and snapshot",
    "key_compromise": "is it the repository that updates.root belongs to? ask the publisher",
    "metadata_invalid": "check the path to the repository: a login page or a proxy answers",
    "self_test_memory": f"{_RETRIED}; the machine has no memory left",
    "self_test_no_cpu_time": f"{_RETRIED}; the machine is too busy",
    "self_test_timeout": f"{_RETRIED}; the machine is too busy",
    "self_test_start": f"{_RETRIED}; the log says why no child process runs",
    "self_test_scratch": f"{_RETRIED}; check the temporary folder",
    "self_test_killed": f"{_RETRIED}; check the log for the out-of-memory killer",
    "self_test_failed": f"{_RETRIED}; the log, if it goes on",
    "self_test_champion": "`kensa model verify`: the running release cannot be loaded beside the new one",
    "self_test_acceptance": "`kensa model acceptance list`: restore or remove the damaged part",
}
SELF_EXPLANATORY: Final = frozenset({"counter_below_floor"})  # reasons whose text is the remedy


_REMEDY_BY_GATE: Final[Mapping[Gate, str]] = {
    Gate.TRUST: "do not work around this gate: ask whoever publishes releases whether they made this one",
    Gate.FETCH: "check the network and the disk, then `kensa model retry`",
    Gate.CONTRACT: "the release was built incorrectly: export it again and publish it under a new version",
    Gate.SELF_TEST: "have the model examined, publish a corrected one",
    Gate.GOLDEN: "compare it with its golden set where it was made",
    Gate.ACCEPTANCE: f"{_RUN} parts that it gets wrong",
    Gate.LATENCY: "publish a smaller model, or raise updates.limits",
    Gate.MEMORY: "publish a smaller model, or raise updates.limits",
    Gate.SHADOW: "check the parts on which it differs before releasing it",
    Gate.ERRORS: "have the model examined, publish a corrected one",
    Gate.DEADLINES: "publish a faster model, or give the line more cores",
    Gate.VERDICTS: "check the parts on which it differs, and label some with `kensa model acceptance add`",
    Gate.DRIFT: "check what it was trained on",
    Gate.TIME: "`kensa model retry` when the line runs again",
    Gate.OPERATOR: "`kensa model retry` allows it again",
    Gate.REVOKED: "wait for another release",
}


def remedy(gate: str, reason: str) -> str | None:
    """Return what to do; None if this version knows neither the reason nor the gate."""
    where = next((known for known in Gate if known == gate), None)
    if where is not None and (reason, where) in _REMEDY_AT_GATE:
        return _REMEDY_AT_GATE[reason, where]
    return _REMEDY_BY_REASON.get(reason) or (None if where is None else _REMEDY_BY_GATE[where])
