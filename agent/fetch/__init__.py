"""The fetch child process, `python -m agent.fetch`: downloads and verifies one release.

Of all packages of `agent` only this one imports tuf, and only it and `agent.upload` import boto3. No other package of
`agent` imports it: `agent.children.fetch_client.FetchClient` starts it as a process and exchanges the messages of
`agent.children.fetch_protocol` with it.
"""
