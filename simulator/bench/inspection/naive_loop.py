"""The loop of the public samples, for comparison.

One thread, a float model, one publish for each frame.

cvtColor, bilinear resize of the whole frame, numpy normalisation, an ONNX Runtime session with default options,
`json.dumps`, one QoS 1 publish. The model is the float export of the very release that Kensa runs.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
import onnxruntime as ort
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Geometry, Pixels

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


class NaiveLoop:
    """One sample program's loop; `run` may be called again and again."""

    def __init__(self, *, float_model: Path, geometry: Geometry, host: str, port: int) -> None:
        """Open session and connection as the samples do."""
        self._session = ort.InferenceSession(str(float_model), providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._size = (geometry.width, geometry.height)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="naive")
        self._client.connect(host, port)
        self._client.loop_start()

    def run(self, frames: list[Pixels], count: int) -> float:
        """Judge `count` frames; returns frames per second, the last acknowledgement included."""
        began = time.perf_counter()
        pending = None
        for index in range(count):
            rgb = cv2.cvtColor(frames[index % len(frames)], cv2.COLOR_BGR2RGB)
            small = cv2.resize(rgb, self._size, interpolation=cv2.INTER_LINEAR)
            normalised = (small.astype(np.float32) / 255.0 - MEAN) / STD
            batch = np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])
            scores = self._session.run(None, {self._input: batch})[0][0]
            payload = json.dumps({"frame": index, "time": time.time(), "scores": [float(s) for s in scores]})
            pending = self._client.publish("naive/verdicts", payload, qos=1)
        if pending is not None:
            pending.wait_for_publish(timeout=10.0)
        return count / (time.perf_counter() - began)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()
