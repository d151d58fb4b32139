"""Cameras that are not there: in memory, over HTTP, RTSP and V4L2."""
