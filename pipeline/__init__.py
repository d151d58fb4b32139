"""The cloud side: datasets, training, quantisation, evaluation and releases.

Meets the device in `agent` only: manifest, preprocessing, decision and the model adapter are the agent's own, so that
training and serving cannot drift apart.
"""

import agent  # noqa: F401 - it switches the telemetry of onnxruntime off, before anything here imports that
