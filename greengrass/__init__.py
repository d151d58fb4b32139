"""The agent as an AWS IoT Greengrass component. The only package that may import the Greengrass SDK."""

import agent  # noqa: F401 - it switches the telemetry of onnxruntime off, before anything here imports that
