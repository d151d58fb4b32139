"""The collecting child process, `python -m agent.upload`: encodes frames, spools and uploads them.

Nothing else in `agent` imports this package; `agent.collection.Collector` starts it as a process and exchanges the
messages of `agent.children.collect_protocol` with it. It imports boto3 only for a target on S3.
"""
