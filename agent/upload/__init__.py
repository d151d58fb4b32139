"""The collecting child: `python -m agent.upload` encodes frames, keeps the spool, and brings it to the target.

Nothing else in `agent` imports this package; `agent.collection.Collector` starts it as a process of its own and speaks
`agent.children.collect_protocol` with it. Only here does collecting import boto3, and only for a target on S3.
"""
