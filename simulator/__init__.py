"""A plant and a cloud on one machine: parts with ground truth, cameras, broker and cloud, for people without a factory.

Runs from a checkout; nothing imports it, and the device wheel does not hold it.
"""

import agent  # noqa: F401 - it switches the telemetry of onnxruntime off, before anything here imports that
