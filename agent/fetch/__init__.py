"""The fetch child: `python -m agent.fetch` brings one release to the disk; only here does `agent` import tuf and boto3.

Nothing else in `agent` imports this package; `agent.model.fetching.FetchClient` starts it as a process of its own and
speaks `agent.model.fetch_protocol` with it.
"""
