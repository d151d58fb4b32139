"""Live cameras that OpenCV opens (RTSP, V4L2), each in a child process of its own that can be killed.

`capture_process` is the parent's side, `python -m agent.video` the child. See docs/decisions/0041.
"""
