"""The services that report on a running agent: metrics endpoint, control socket and heartbeat."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from agent.app import resend_handler
from agent.app.reconfigure import Reconfigurator
from agent.app.snapshot_builder import build_snapshot
from agent.control import ControlServer
from agent.errors import ControlError
from agent.health.heartbeat_publisher import HeartbeatPublisher
from agent.lifecycle.control_handlers import model_handlers
from agent.timing.clock import NS_PER_S
from agent.wire import encode_heartbeat, encode_verdict, heartbeat_topic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.app.composition.components import AgentComponents
    from agent.wire import Heartbeat

_log = logging.getLogger(__name__)


class AgentServices:
    """Started before the cameras only, and stopped after them; `heartbeat` may publish before `start`."""

    def __init__(self, components: AgentComponents) -> None:
        """Compose; the metrics port is not bound yet."""
        self._components = components
        config, supervisor = components.config.current, components.supervisor
        snapshot = partial(build_snapshot, components)
        self.heartbeat: Final = HeartbeatPublisher(
            identity=components.identity,
            snapshot=snapshot,
            sink=self._send_heartbeat,
            clock=components.clock,
            period_s=config.heartbeat_s,
            supervisor=supervisor,
        )
        self.reconfigurator: Final = Reconfigurator(components, heartbeat=self.heartbeat)
        self._metrics = None
        if config.metrics is not None:
            from agent.adapters.prometheus import MetricsServer  # noqa: PLC0415 - only where it is configured

            self._metrics = MetricsServer(
                identity=components.identity, snapshot=snapshot, port=config.metrics.port, supervisor=supervisor
            )
        manager = components.lifecycle_manager
        handlers = {
            "status": self._status,
            "reset_baseline": self._reset_baseline,
            "explain": self._explain,
            **self.reconfigurator.handlers(),
            **resend_handler.handlers(components.outbox),
            **model_handlers({} if manager is None else manager.lifecycles),
        }
        self._control = ControlServer(state_dir=config.state_dir, handlers=handlers, supervisor=supervisor)

    def start(self) -> None:
        """Start all three. Raises ConfigError for a port that is in use, StateDirError for a socket that fails."""
        if self._metrics is not None:
            _log.info("metrics on http://127.0.0.1:%d/metrics", self._metrics.start())
        self._control.start()
        self.heartbeat.start()

    def close(self, timeout_s: float) -> None:
        """Stop each of the three within `timeout_s` seconds. Safe to call twice, and after a failed `start`."""
        self.heartbeat.close(timeout_s=timeout_s)
        self._control.close(timeout_s=timeout_s)
        for monitor in self._components.monitors.values():
            monitor.save(now=True)
        if self._metrics is not None:
            self._metrics.close()

    def _send_heartbeat(self, heartbeat: Heartbeat) -> None:
        self._components.outbox.publish_now(
            heartbeat_topic(self._components.identity.thing), encode_heartbeat(heartbeat)
        )
        for monitor in self._components.monitors.values():
            monitor.save()

    def _status(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        now_ns = self._components.clock.monotonic_ns()
        active_conditions = [
            {"what": found.what, "reason": found.reason, "for_s": round((now_ns - found.since_ns) / NS_PER_S, 1)}
            for found in self._components.supervisor.conditions()
        ]
        return {"heartbeat": self.heartbeat.preview().model_dump(mode="json"), "active_conditions": active_conditions}

    def _reset_baseline(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reset the baseline of an inspection's reject rate."""
        name = request.get("inspection")
        monitor = self._components.monitors.get(name) if isinstance(name, str) else None
        if monitor is None:
            known = ", ".join(sorted(self._components.monitors))
            raise ControlError(f"there is no inspection {str(name)[:64]!r} here; known: {known}")
        monitor.reset_baseline()
        return {"inspection": name}

    def _explain(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        key = request.get("key")
        if not isinstance(key, str):
            raise ControlError('explain needs a text "key"')
        found = self._components.outbox.find_verdict(key)
        return {"verdict": None if found is None else json.loads(encode_verdict(found.verdict))}
