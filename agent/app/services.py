"""What speaks for a running agent: the metrics endpoint, the control socket and the heartbeat."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import agent as kensa
from agent.app import reconfigure, resend_handler
from agent.control import ControlServer
from agent.errors import ControlError
from agent.health.heartbeat_publisher import HeartbeatPublisher
from agent.health.snapshot import AgentIdentity
from agent.lifecycle.control_handlers import model_handlers
from agent.timing.clock import NS_PER_S
from agent.wire import encode_heartbeat, encode_verdict, heartbeat_topic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.app.agent import Agent
    from agent.wire import Heartbeat

_log = logging.getLogger(__name__)


class AgentServices:
    """Started last but for the cameras, and stopped first; `heartbeat` may beat before `start`."""

    def __init__(self, agent: Agent) -> None:
        """Compose; the metrics' port is not taken yet."""
        self._agent = agent
        config, supervisor = agent.config, agent.supervisor
        identity = AgentIdentity(
            config.thing,
            config.line,
            agent.boot_epoch,
            kensa.__version__,
            agent.started_ns,
            agent.component_version,
        )
        self.heartbeat = HeartbeatPublisher(
            identity=identity,
            snapshot=agent.snapshot,
            sink=self._send_heartbeat,
            clock=agent.clock,
            period_s=config.heartbeat_s,
            supervisor=supervisor,
        )
        self._metrics = None
        if config.metrics is not None:
            from agent.adapters.prometheus import MetricsServer  # noqa: PLC0415 - only where it is configured

            self._metrics = MetricsServer(
                identity=identity, snapshot=agent.snapshot, port=config.metrics.port, supervisor=supervisor
            )
        handlers = {
            "status": self._status,
            "reset_baseline": self._reset_baseline,
            "explain": self._explain,
            **reconfigure.handlers(agent),
            **resend_handler.handlers(agent.outbox),
            **model_handlers({} if agent.lifecycle_manager is None else agent.lifecycle_manager.lifecycles),
        }
        self.control = ControlServer(state_dir=config.state_dir, handlers=handlers, supervisor=supervisor)

    def start(self) -> None:
        """Begin to speak. Raises ConfigError for a port that is taken, StateDirError for a socket that cannot be."""
        if self._metrics is not None:
            _log.info("metrics on http://127.0.0.1:%d/metrics", self._metrics.start())
        self.control.start()
        self.heartbeat.start()

    def close(self, timeout_s: float) -> None:
        """End; each of the three within `timeout_s` seconds. Safe to call twice, and after a failed `start`."""
        self.heartbeat.close(timeout_s=timeout_s)
        self.control.close(timeout_s=timeout_s)
        for monitor in self._agent.monitors.values():
            monitor.save(now=True)
        if self._metrics is not None:
            self._metrics.close()

    def _send_heartbeat(self, heartbeat: Heartbeat) -> None:
        self._agent.outbox.publish_now(heartbeat_topic(self._agent.config.thing), encode_heartbeat(heartbeat))
        for monitor in self._agent.monitors.values():
            monitor.save()

    def _status(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        now_ns = self._agent.clock.monotonic_ns()
        active_conditions = [
            {"what": found.what, "reason": found.reason, "for_s": round((now_ns - found.since_ns) / NS_PER_S, 1)}
            for found in self._agent.supervisor.conditions()
        ]
        return {"heartbeat": self.heartbeat.preview().model_dump(mode="json"), "active_conditions": active_conditions}

    def _reset_baseline(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin an inspection's chart of the reject rate anew."""
        name = request.get("inspection")
        monitor = self._agent.monitors.get(name) if isinstance(name, str) else None
        if monitor is None:
            known = ", ".join(sorted(self._agent.monitors))
            raise ControlError(f"there is no inspection {str(name)[:64]!r} here; known: {known}")
        monitor.reset_baseline()
        return {"inspection": name}

    def _explain(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        key = request.get("key")
        if not isinstance(key, str):
            raise ControlError('explain needs a text "key"')
        found = self._agent.outbox.find_verdict(key)
        return {"verdict": None if found is None else json.loads(encode_verdict(found.verdict))}
