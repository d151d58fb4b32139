"""The Kensa inspector: frames in, verdicts out.

Knows no AWS SDK, no Greengrass and no simulator; adapters for those come in through `agent.app.build`.
"""

import os

__version__ = "0.1.0"

# OpenCV reads these once, when it is first imported, and this file runs before any module of the agent imports it.
# Without the limit a header that claims 16000 x 16000 pixels costs seconds and 1.5 GB before a row is decoded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))  # 8192 x 8192, as agent.images.decode.MAX_IMAGE_PX
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # the adapters say what failed; OpenCV would print addresses
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")  # see agent/adapters/opencv_sources.py
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")  # s; a hanging USB camera delays the exit by as much
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: FFmpeg prints URLs with their passwords
# ONNX Runtime looks up a telemetry host of its vendor as soon as a model is loaded, and reads this when it is imported;
# its own `disable_telemetry_events` comes too late. A plant's network lets nothing out that was not ordered.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
