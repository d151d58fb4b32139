"""The agent as an AWS IoT Greengrass component. The only package that may import the Greengrass SDK."""

import agent  # noqa: F401 - disables the telemetry of onnxruntime before anything here imports it
