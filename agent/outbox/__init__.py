"""Durable store and forward: messages are on disk until the broker has acknowledged them."""

from __future__ import annotations

from agent.outbox.outbox import Outbox
from agent.outbox.outbox_records import OutboxLimits, OutboxStats
from agent.outbox.storage.boot_counter import next_boot_epoch
from agent.outbox.storage.verdict_lookup import StoredVerdict, find_verdict

__all__ = ["Outbox", "OutboxLimits", "OutboxStats", "StoredVerdict", "find_verdict", "next_boot_epoch"]
