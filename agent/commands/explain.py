"""`kensa explain VERDICT_KEY` shows why a part got its verdict.

It asks the running agent; without one it reads the state directory, and changes nothing there. It prints the verdict
with model, digests and timings, and draws the kept frame with the evidence over it.
"""

from __future__ import annotations

import argparse
import difflib
import json
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent import config as configuration
from agent import control, wire
from agent.adapters.verdict_image import Caption, Heatmap, draw_verdict
from agent.errors import ControlError, FrameError, KensaError, ReleaseError
from agent.images.decode import MAX_IMAGE_BYTES, ImageDecoder
from agent.outbox.storage import verdict_lookup
from agent.preprocess import InputPlan, InputTile
from agent.records import Outcome
from agent.release import manifest as manifests

if TYPE_CHECKING:
    from agent.config import Config
    from agent.records import Pixels, Verdict

_RANGES_SHOWN: Final = 5
_DIGEST_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict, and what is still stored about it on this machine."""

    verdict: Verdict
    threshold: float | None  # None where no defect class has one, or the release is not available
    unsure_band: float
    frame: Path | None
    frame_note: str | None  # why there is no frame


# --- lookup -----------------------------------------------------------------------------------------------------------


def find_verdict(state_dir: Path, key: str) -> Verdict:
    """Ask the running agent, or read its files. Raises KensaError with the known keys."""
    if len(key.split("/")) != 4:  # noqa: PLR2004 - the key's parts
        raise KensaError(f"{key[:200]!r} is not a verdict key: use line/camera/boot_epoch/seq, such as l1/cam/3/1042")
    if not state_dir.is_dir():
        raise KensaError(f"{state_dir} is no directory: give the state_dir of the agent that inspected the part")
    verdict = _from_agent(state_dir, key)
    if verdict is None:
        found = verdict_lookup.find_verdict(state_dir, key)
        verdict = None if found is None else found.verdict
    if verdict is None:
        raise KensaError(f"no verdict {key} is kept in {state_dir}. {_known_keys_text(state_dir, key)}")
    return verdict


def _from_agent(state_dir: Path, key: str) -> Verdict | None:
    """Ask the agent, which has verdicts that are not on disk yet."""
    try:
        answer = control.request(state_dir, "explain", key=key).get("verdict")
    except ControlError:  # none runs here; the files have the same verdicts
        return None
    if answer is None:
        return None
    message = wire.decode(json.dumps(answer).encode())
    return message.verdicts[0] if isinstance(message, wire.DecodedVerdicts) else None


def _known_keys_text(state_dir: Path, key: str) -> str:
    ranges = verdict_lookup.known_ranges(state_dir)
    if not ranges:
        return "It holds no verdicts at all"
    line, camera, *_ = key.split("/")
    same = [r for r in ranges if (r.line, r.camera) == (line, camera)]
    if not same:
        names = sorted({f"{r.line}/{r.camera}" for r in ranges})
        near = difflib.get_close_matches(f"{line}/{camera}", names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"No camera {line}/{camera} is known: {hint}known are {', '.join(names[:_RANGES_SHOWN])}"
    shown = [f"{r.line}/{r.camera}/{r.boot_epoch}/{r.first_seq} to {r.last_seq}" for r in same[:_RANGES_SHOWN]]
    return f"Known of this camera: {'; '.join(shown)}. Older ones left the history (outbox.history_days, history_bytes)"


def build_explanation(state_dir: Path, config: Config | None, key: str) -> Explanation:
    """Collect everything about one verdict. Raises KensaError."""
    verdict = find_verdict(state_dir, key)
    threshold, band = _threshold(config, verdict)
    frame, note = _frame(state_dir, verdict)
    return Explanation(verdict, threshold, band, frame, note)


def _threshold(config: Config | None, verdict: Verdict) -> tuple[float | None, float]:
    """Return threshold and band of the verdict's class, if the configuration still names the model that decided it."""
    origin, name = verdict.origin, verdict.judgement.class_name
    inspection = config.inspections.get(origin.inspection) if config else None
    if inspection is None or origin.model is None:
        return None, 0.0
    try:
        manifest = manifests.read_manifest(inspection.release)
    except ReleaseError:
        return None, 0.0
    if manifest.identity(trusted=False).sha256 != origin.model.sha256:
        return None, 0.0
    thresholds = {**manifest.decision.thresholds, **inspection.thresholds}
    band = manifest.decision.unsure_band if inspection.unsure_band is None else inspection.unsure_band
    if verdict.judgement.outcome is Outcome.OK and thresholds:
        return min(thresholds.values()), band  # the most suspicious class stayed below its own
    return thresholds.get(name or ""), band


def _frame(state_dir: Path, verdict: Verdict) -> tuple[Path | None, str | None]:
    if verdict.image is None:
        match verdict.judgement.outcome:
            case Outcome.OK:
                return None, "frames of ok parts are not kept"
            case Outcome.UNKNOWN:
                return None, "the part was not classified, so no frame was kept"
            case _:
                return None, "more came at once than keep.max_per_s allows, or keep.frames is 0"
    path = (state_dir / verdict.image).resolve()
    if not path.is_relative_to(state_dir.resolve()):
        return None, f"its reference {verdict.image!r} points outside of the state directory"
    if not path.is_file():
        return None, "newer frames have displaced it (keep.frames, keep.max_bytes)"
    return path, None


# --- picture ----------------------------------------------------------------------------------------------------------


def render_image(explanation: Explanation) -> bytes | None:
    """Return a PNG of the kept frame; None when there is none. Raises KensaError when it cannot be read."""
    if explanation.frame is None:
        return None
    frame = _read_frame(explanation.frame)
    judgement = explanation.verdict.judgement
    lines = tuple(row for row in rows(explanation) if row[0] not in {"frame", "inspection"})
    caption = Caption(str(judgement.outcome), headline(explanation), lines)
    return draw_verdict(
        frame, caption=caption, box=judgement.box, heat=_load_heatmap(explanation.frame.with_suffix(".npz"))
    )


def _read_frame(path: Path) -> Pixels:
    decoder = ImageDecoder()
    try:
        with path.open("rb") as file:
            return decoder.decode(file.read(MAX_IMAGE_BYTES + 1), None)
    except (OSError, FrameError) as error:
        raise KensaError(f"the kept frame {path} cannot be read: {error}") from error
    finally:
        decoder.close()


def _load_heatmap(path: Path) -> Heatmap | None:
    """Return the evidence recorded beside the frame; None for a model without evidence, or a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as data:
            evidence = data["evidence"].astype(np.float32) / np.float32(255)
            scale_x, scale_y = (float(v) for v in data["scale"])
            left, top, width, height = (int(v) for v in data["roi"])
            input_h, input_w = (int(v) for v in data["input_hw"])
            tiles = tuple(InputTile(int(x), int(y)) for x, y in data["tiles"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if evidence.ndim != 3 or len(evidence) != len(tiles):  # noqa: PLR2004
        return None
    roi, size = (left, top, width, height), (input_h, input_w)
    return Heatmap(evidence, InputPlan(roi, 0, size, tiles, scale_x, scale_y, size))


# --- text -------------------------------------------------------------------------------------------------------------


def headline(explanation: Explanation) -> str:
    """Return class, score and the threshold that the score was compared with."""
    judgement = explanation.verdict.judgement
    if judgement.outcome is Outcome.UNKNOWN:
        return judgement.reason or "not classified"
    text = f"{judgement.class_name or ''}  score {judgement.score:.3f}".strip()
    if explanation.threshold is None:
        return text
    band = explanation.unsure_band
    unsure = f", unsure from {max(0.0, explanation.threshold - band):.3f}" if band else ""
    return f"{text} (threshold {explanation.threshold:.3f}{unsure})"


def rows(explanation: Explanation) -> list[tuple[str, str]]:
    """Return (name, value) of everything else, the most important first."""
    verdict = explanation.verdict
    origin, judgement, model = verdict.origin, verdict.judgement, verdict.origin.model
    captured = datetime.fromtimestamp(verdict.captured_utc_ns / 1e9, UTC)
    found = [("key", verdict.key)]
    if verdict.part_id is not None:
        found.append(("part", verdict.part_id))
    found.append(
        ("captured", f"{captured:%Y-%m-%d %H:%M:%S.%f} UTC, verdict {verdict.latency_us / 1_000:.2f} ms after due")
    )
    found.append(("inspection", f"{origin.inspection} of {origin.thing}"))
    if model is None:
        found.append(("model", "none was usable"))
    else:
        trust = "trusted" if model.trusted else "untrusted"
        found.append(
            ("model", f"{model.name} {model.version}, release {model.counter}, {trust}, sha256 {model.sha256}")
        )
    digests = f"preprocessing {origin.preprocess_digest[:_DIGEST_SHOWN] or 'none'}, configuration "
    found.append(("digests", digests + origin.config_digest[:_DIGEST_SHOWN]))
    if judgement.scores:
        scores = sorted(zip(origin.classes, judgement.scores, strict=False), key=lambda item: -item[1])
        found.append(("scores", ", ".join(f"{name} {score:.3f}" for name, score in scores[:8])))
    if judgement.box is not None:
        x, y, width, height = judgement.box
        found.append(("where", f"{width} x {height} px at x {x}, y {y}"))
    if verdict.challenger_outcome is not None:
        found.append(
            ("challenger", f"{verdict.challenger_outcome} by {(verdict.challenger_sha256 or '')[:_DIGEST_SHOWN]}")
        )
    found.append(("frame", str(explanation.frame) if explanation.frame else f"not kept: {explanation.frame_note}"))
    return found


def _as_dict(explanation: Explanation, drawn: Path | None) -> dict[str, Any]:
    verdict = explanation.verdict
    return {
        "key": verdict.key,
        "verdict": json.loads(wire.encode_verdict(verdict)),
        "threshold": explanation.threshold,
        "unsure_band": explanation.unsure_band,
        "frame": None if explanation.frame is None else str(explanation.frame),
        "frame_note": explanation.frame_note,
        "picture": None if drawn is None else str(drawn),
    }


def main(argv: list[str]) -> int:
    """Print and draw one verdict; 0 when it was found."""
    parser = argparse.ArgumentParser(prog="kensa explain", description=__doc__)
    parser.add_argument("key", metavar="VERDICT_KEY", help="line/camera/boot_epoch/seq")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--config", type=Path, help="the configuration that the agent runs with; adds thresholds")
    place.add_argument("--state-dir", type=Path, help="the agent's state directory")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="default: explain-CAMERA-EPOCH-SEQ.png, here")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    config = configuration.load(arguments.config) if arguments.config else None
    explanation = build_explanation(config.state_dir if config else arguments.state_dir, config, arguments.key)
    drawn = None
    png = render_image(explanation)
    if png is not None:
        name = "-".join(explanation.verdict.key.split("/")[1:])
        drawn = arguments.out or Path(f"explain-{name}.png")
        try:
            drawn.write_bytes(png)
        except OSError as error:
            raise KensaError(f"{drawn} cannot be written: {error.strerror}. Choose another --out") from error
    if arguments.json:
        print(json.dumps(_as_dict(explanation, drawn)))
        return 0
    print(f"{explanation.verdict.judgement.outcome.upper()}  {headline(explanation)}")
    for row_name, value in rows(explanation) + ([("picture", str(drawn))] if drawn else []):
        print(f"  {row_name:<11} {value}")
    return 0
