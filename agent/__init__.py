"""The Kensa inspector: frames in, verdicts out.

Knows no AWS SDK, no Greengrass and no simulator; adapters for those come in through `agent.app.build`.
"""

__version__ = "0.1.0"
