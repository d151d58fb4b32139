"""A simulated plant and cloud on one machine.

Parts with ground truth, cameras, a broker and AWS services, for development and tests without a factory.

Runs from a checkout; nothing imports it, and the device wheel does not hold it.
"""

import agent  # noqa: F401 - it switches the telemetry of onnxruntime off, before anything here imports that
