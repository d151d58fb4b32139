"""Durable store and forward: verdicts are on disk before they travel, and leave the disk when the broker has them."""

from __future__ import annotations

from agent.outbox.epoch import next_boot_epoch
from agent.outbox.lookup import StoredVerdict, find_verdict
from agent.outbox.rows import OutboxLimits, OutboxStats
from agent.outbox.service import Outbox

__all__ = ["Outbox", "OutboxLimits", "OutboxStats", "StoredVerdict", "find_verdict", "next_boot_epoch"]
