"""Durable store and forward: verdicts are on disk before they travel, and leave the disk when the broker has them."""

from __future__ import annotations

from agent.outbox.epoch import next_boot_epoch
from agent.outbox.lookup import Found, find
from agent.outbox.rows import OutboxLimits, OutboxStats
from agent.outbox.service import Outbox

__all__ = ["Found", "Outbox", "OutboxLimits", "OutboxStats", "find", "next_boot_epoch"]
