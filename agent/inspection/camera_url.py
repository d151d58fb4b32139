"""Camera addresses, without their secrets.

Promise: whatever a camera's error or log line shows of its address went through `redact`, so that neither a password
nor a token in the query gets there.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

UNREADABLE: Final = "<unreadable address>"


def redact(url: str) -> str:
    """Return `url` with user, password, query and fragment masked; what cannot be parsed is masked altogether."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return UNREADABLE
    if not parts.scheme or host is None:
        return UNREADABLE
    name = f"[{host}]" if ":" in host else host
    user = "***@" if "@" in parts.netloc else ""
    at_port = "" if port is None else f":{port}"
    query = "?***" if parts.query else ""
    return f"{parts.scheme}://{user}{name}{at_port}{parts.path}{query}"
