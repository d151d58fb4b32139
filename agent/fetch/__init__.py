"""The fetch child: `python -m agent.fetch` brings one release to the disk; only here does `agent` import tuf and boto3.

Nothing else in `agent` imports this package; `agent.children.fetch_client.FetchClient` starts it as a process of its
own and speaks `agent.children.fetch_protocol` with it.
"""
