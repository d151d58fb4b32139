"""A component's accessControl, matched as the nuclei match it. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from simulator.doubles.network.topic_filter import topic_matches

PUBSUB: Final = "aws.greengrass.ipc.pubsub"
MQTT: Final = "aws.greengrass.ipc.mqttproxy"
SHADOW: Final = "aws.greengrass.ShadowManager"
LIFECYCLE: Final = "aws.greengrass.ipc.lifecycle"
CLI: Final = "aws.greengrass.Cli"


def _glob_matches(pattern: str, resource: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), resource, re.DOTALL) is not None


def is_allowed(access: Any, *, service: str, operation: str, resource: str) -> bool:
    """Whether the configuration's `accessControl` lets `operation` (without namespace) act on `resource`."""
    policies = access.get(service) if isinstance(access, dict) else None
    if not isinstance(policies, dict):
        return False
    return any(_policy_permits(policy, service, operation, resource) for policy in policies.values())


def _policy_permits(policy: Any, service: str, operation: str, resource: str) -> bool:
    if not isinstance(policy, dict):
        return False
    operations, resources = policy.get("operations", ()), policy.get("resources", ())
    if "*" not in operations and f"aws.greengrass#{operation}" not in operations:
        return False
    for pattern in resources:
        if _glob_matches(pattern, resource) or (service == MQTT and topic_matches(pattern, resource)):
            return True
    return False
