"""`kensa status` prints the state of a running agent, from its control socket."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from agent import config, control
from agent.commands import model_text
from agent.condition_log import duration
from agent.errors import ControlError


def main(argv: list[str]) -> int:
    """Print the running agent's heartbeat and its models' state, for people or with --json for machines."""
    parser = argparse.ArgumentParser(prog="kensa status", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the configuration that the agent runs with")
    reset = "learn this inspection's usual reject rate again from now on, once somebody has checked the parts"
    parser.add_argument("--reset-baseline", metavar="INSPECTION", help=reset)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    state_dir = config.load(arguments.config).state_dir
    if arguments.reset_baseline is not None:
        control.request(state_dir, "reset_baseline", inspection=arguments.reset_baseline)
    answer = control.request(state_dir, "status")
    heartbeat, active_conditions = answer["heartbeat"], answer["active_conditions"]
    models = _models(state_dir)
    if arguments.json:
        print(json.dumps({**heartbeat, "models": models, "active_conditions": active_conditions}))
    else:
        print(
            "\n".join(
                [
                    _text(heartbeat, active_conditions),
                    *(model_text.format_summary(values) for values in models.values()),
                ]
            )
        )
    return 0


def _models(state_dir: Path) -> dict[str, Any]:
    """Return each inspection's lifecycle; empty for an agent without updates."""
    try:
        inspections: dict[str, Any] = control.request(state_dir, "model.show")["inspections"]
    except ControlError:
        return {}
    return inspections


def _text(beat: dict[str, Any], active_conditions: list[dict[str, Any]]) -> str:
    outbox = beat["outbox"]
    reason = f" ({beat['transport_reason']})" if beat.get("transport_reason") else ""
    component = f" (component {beat['component_version']})" if beat.get("component_version") else ""
    lines = [
        (
            f"{beat['thing']} / {beat['line']}: kensa {beat['agent_version']}{component}, "
            f"boot epoch {beat['boot_epoch']}, up {beat['uptime_s']:.0f} s, {beat['cpu']:.2f} cores, "
            f"{beat['rss_bytes'] / 1e6:.0f} MB"
        ),
        f"broker {beat['transport']}{reason}, outbox {outbox['rows']} messages ({outbox['verdicts']} verdicts)",
        *_refused_topics(outbox),
        *_storage(outbox),
        *(f"FAULT for {duration(found['for_s'])}: {found['what']}: {found['reason']}" for found in active_conditions),
        *_faults_text(beat),
    ]
    if beat.get("configuration") is not None:
        lines += _configuration(beat["configuration"])
    if beat.get("broker") is not None:
        lines += _broker(beat["broker"])
    if beat["collection"] is not None:
        lines.append(_collection(beat["collection"]))
    for inspection in beat["inspections"]:
        lines += _inspection(inspection)
    for camera in beat["cameras"]:
        dropped = ", ".join(f"{count} {reason}" for reason, count in camera["dropped"].items()) or "none"
        lines.append(
            f"camera {camera['camera']}: {camera['state']}, {camera['fps']:.1f} frames/s, "
            f"captured {camera['captured']}, inspected {camera['inspected']}, dropped {dropped}, "
            f"pending {camera['pending']}"
        )
        if camera["error"] is not None:
            when = "last error" if camera["state"] in {"running", "ended"} else "why"
            lines.append(f"  {when}: {camera['error']}")
        lines += _pictures(camera)
    return "\n".join(lines)


def _storage(outbox: dict[str, Any]) -> list[str]:
    """Describe storage errors of the outbox, and the verdicts lost by them; nothing while all are kept."""
    lines = [] if outbox["storage_error"] is None else [f"NOT COMMITTED: {outbox['storage_error']}"]
    lost = {"given up because the outbox was full": outbox["evicted"], "damaged on disk": outbox["damaged"]}
    lines += [f"{count} verdicts lost: {why}; gap messages name them" for why, count in lost.items() if count]
    return lines


def _faults_text(beat: dict[str, Any]) -> list[str]:
    """Describe what has failed since the agent's start, apart from frames and verdicts."""
    lines = []
    if beat["faults"]:
        lines.append(f"the model runtime failed on {beat['faults']} batches: {beat['last_fault']}")
    if (threads := beat["threads"])["faults"]:
        lines.append(f"faults of threads: {_counts(threads['faults'])}; the last: {threads['last']}")
    if beat["frames_not_recorded"]:
        lines.append(f"{beat['frames_not_recorded']} frames of defect and unsure parts were not kept")
    if beat["losses"]:
        lines.append(f"dropped or refused beside frames: {_counts(beat['losses'])}")
    log = beat["log"]
    if log["warnings"] or log["errors"]:
        lines.append(f"log: {log['warnings']} warnings, {log['errors']} errors, {log['repeats']} repeats suppressed")
    return lines


def _configuration(figures: dict[str, Any]) -> list[str]:
    """Describe a configuration that is not in force; nothing while the newest one is."""
    lines = []
    if figures["refused"] is not None:
        lines.append(f"the newest configuration is refused, the one before it is in force: {figures['refused']}")
    if figures["needs_restart"]:
        lines.append(f"the newest configuration waits for a restart: {', '.join(figures['needs_restart'])}")
    return lines


def _broker(figures: dict[str, Any]) -> list[str]:
    lines = [f"broker does not support {feature}: {reason}" for feature, reason in figures["refused"].items()]
    if figures["dropped"]:
        lines.append(f"broker sent what was dropped: {_counts(figures['dropped'])}")
    return lines


def _inspection(figures: dict[str, Any]) -> list[str]:
    """Describe an inspection's model, its outcomes, and its problems."""
    untrusted = "" if figures["trusted"] else " (untrusted)"
    lines = [f"inspection {figures['inspection']}: {figures['model']} {figures['version']}{untrusted}"]
    if figures["unhealthy"] is not None:
        lines.append(f"  NOT HEALTHY: {figures['unhealthy']}")
    if figures["outcomes"]:
        classes = f" ({_counts(figures['classes'])})" if figures["classes"] else ""
        lines.append(f"  inspected by this model: {_counts(figures['outcomes'])}{classes}")
    if figures["rejects"] is not None:
        lines.append(f"  {_rejects(figures['rejects'])}")
    return lines


_CHARTS: Final = {
    "learning": "the usual rate is being learned",
    "steady": "as usual",
    "high": "MORE than usual",
    "low": "FEWER than usual",
    "flood": "NEARLY ALL",
}


def _rejects(figures: dict[str, Any]) -> str:
    parts, rejects = figures["parts"], figures["rejects"]
    share = f"{rejects / parts:.1%}" if parts else "none"
    usual = "" if figures["baseline"] is None else f", usual are runs of rejects on {figures['baseline']:.2%}"
    return f"rejects: {rejects} of the last {parts} parts ({share}), {_CHARTS[figures['state']]}{usual}"


def _pictures(camera: dict[str, Any]) -> list[str]:
    """Describe problems of a camera's images, one line each."""
    lines = []
    if camera["picture_alarm"] is not None:
        lines.append(f"  NOT INSPECTED: its pictures are {camera['picture_alarm']}")
    if camera["picture_faults"]:
        lines.append(f"  unknown because of the picture: {_counts(camera['picture_faults'])}")
    if camera["image_mismatch"] is not None:
        lines.append(f"  unlike the pictures that the model was trained on: {camera['image_mismatch']}")
    if camera.get("skipped_files") is not None:
        lines.append(f"  {camera['skipped_files']}")
    return lines


def _refused_topics(outbox: dict[str, Any]) -> list[str]:
    held = outbox["held_back"]
    lines = [f"topic {t['topic']} refused for {duration(t['for_s'])}, its messages wait: {t['reason']}" for t in held]
    if (more := outbox["held_back_topics"] - len(held)) > 0:
        lines.append(f"{more} more topics are refused; the log names them")
    return lines


def _collection(figures: dict[str, Any]) -> str:
    kept = _counts(figures["kept"])
    lost = _counts({**figures["dropped"], **figures["skipped"]})
    text = (
        f"collected: kept {kept}; lost {lost}; {figures['waiting']} wait ({figures['waiting_bytes'] / 1e6:.1f} MB), "
        f"{figures['uploaded']} uploaded, {figures['day_bytes'] / 1e6:.1f} MB today"
    )
    if figures["set_aside"]:
        text += f"; {figures['set_aside']} set aside: the target holds something else under their keys, or refused them"
    return text if figures["error"] is None else f"{text}; {figures['error']}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
