"""The hot path: capture, frame buffers, intake and the worker loop."""
