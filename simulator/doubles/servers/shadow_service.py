"""AWS IoT's device-shadow service on a local broker: named shadows over MQTT.

    with open_broker() as broker, ShadowService(host=broker.host, port=broker.port) as shadows:
        shadows.desire("thing-1", "surface", "parts/1.1.0")
        print(shadows.reported("thing-1"))

`ShadowStore` is the service without a network: documents, versions, metadata, deltas and refusals. After
https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html: updates merge, null removes, arrays are
replaced; a request with another version is refused (409), a document over 8 KB too (413), and so is one deeper than
eight levels (400). Deleting keeps the version.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent.errors import OperatorError
from agent.wire.codec import SHADOW_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

MAX_DOCUMENT_BYTES: Final = 8 * 1024
MAX_DEPTH: Final = 8
_START_S: Final = 15.0
_TOPIC = re.compile(r"\$aws/things/([A-Za-z0-9:_-]{1,128})/shadow/name/([A-Za-z0-9:_-]{1,64})/(get|update|delete)")
_SECTIONS: Final = ("desired", "reported")
_log = logging.getLogger(__name__)

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShadowMessage:
    """One message that the service publishes; `suffix` follows the shadow's own topic, such as `get/accepted`."""

    suffix: str
    content: Tree


@dataclass(slots=True)
class _Shadow:
    version: int = 0
    exists: bool = False
    state: Tree = field(default_factory=dict)  # desired and reported
    metadata: Tree = field(default_factory=dict)


class _RefusedError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class ShadowStore:
    """Every shadow by (thing, name). Not thread-safe."""

    def __init__(self, *, utc_s: Callable[[], float] = time.time) -> None:
        """`utc_s` gives the timestamps."""
        self._shadows: dict[tuple[str, str], _Shadow] = {}
        self._utc_s = utc_s

    def handle(self, thing: str, name: str, request: str, payload: bytes) -> list[ShadowMessage]:
        """Answer one request (`get`, `update` or `delete`) with what the service would publish, in its order."""
        token: str | None = None
        try:
            body = _parsed(payload)
            token = _token(body)
            match request:
                case "get":
                    answers = [ShadowMessage("get/accepted", self._get(thing, name))]
                case "update":
                    answers = self._update(thing, name, body)
                case _:
                    answers = [ShadowMessage("delete/accepted", self._delete(thing, name))]
        except _RefusedError as refused:
            answers = [ShadowMessage(f"{request}/rejected", {"code": refused.code, "message": str(refused)})]
        for answer in answers:
            answer.content["timestamp"] = int(self._utc_s())
            if token is not None:
                answer.content["clientToken"] = token
        return answers

    def state(self, thing: str, name: str) -> Tree:
        """Return a copy of `desired` and `reported`; empty where there is no shadow."""
        shadow = self._shadows.get((thing, name))
        return {} if shadow is None else copy.deepcopy(shadow.state)

    def _require(self, thing: str, name: str) -> _Shadow:
        shadow = self._shadows.get((thing, name))
        if shadow is None or not shadow.exists:
            raise _RefusedError(404, f"No shadow exists with name: '{name}'")
        return shadow

    def _get(self, thing: str, name: str) -> Tree:
        shadow = self._require(thing, name)
        state = copy.deepcopy(shadow.state)
        if delta := _delta(shadow.state):
            state["delta"] = delta
        return {"state": state, "metadata": copy.deepcopy(shadow.metadata), "version": shadow.version}

    def _delete(self, thing: str, name: str) -> Tree:
        shadow = self._require(thing, name)
        shadow.exists, shadow.state, shadow.metadata = False, {}, {}
        return {"version": shadow.version}

    def _update(self, thing: str, name: str, body: Tree) -> list[ShadowMessage]:
        state = _state_of(body)
        shadow = self._shadows.get((thing, name)) or _Shadow()
        expected = body.get("version")
        if expected is not None and expected != shadow.version:
            raise _RefusedError(409, "Version conflict")
        before = _snapshot(shadow)
        merged = _merged(shadow.state, state)
        if len(json.dumps(merged, separators=(",", ":")).encode()) > MAX_DOCUMENT_BYTES:
            raise _RefusedError(413, "The payload exceeds the maximum size allowed")
        stamp = {"timestamp": int(self._utc_s())}
        changed = _with_timestamps(state, stamp)
        shadow.metadata = _pruned(_merged(shadow.metadata, changed), merged)
        shadow.state, shadow.version, shadow.exists = merged, shadow.version + 1, True
        self._shadows[thing, name] = shadow
        accepted = {"state": state, "metadata": changed, "version": shadow.version}
        answers = [ShadowMessage("update/accepted", accepted)]
        if delta := _delta(shadow.state):
            content = {"version": shadow.version, "state": delta, "metadata": _with_timestamps(delta, stamp)}
            answers.append(ShadowMessage("update/delta", content))
        answers.append(ShadowMessage("update/documents", {"previous": before, "current": _snapshot(shadow)}))
        return answers


def _parsed(payload: bytes) -> Tree:
    if len(payload) > MAX_DOCUMENT_BYTES:
        raise _RefusedError(413, "The payload exceeds the maximum size allowed")
    if not payload:
        return {}
    try:
        body = json.loads(payload.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _RefusedError(415, "Unsupported documented encoding; supported encoding is UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, "Invalid JSON") from error
    if not isinstance(body, dict):
        raise _RefusedError(400, "State must be an object")
    return body


def _token(body: Tree) -> str | None:
    token = body.get("clientToken")
    if token is not None and (not isinstance(token, str) or len(token.encode()) > 64):  # noqa: PLR2004 - of AWS IoT
        raise _RefusedError(400, "Invalid clientToken")
    return token


def _state_of(body: Tree) -> Tree:
    state = body.get("state")
    if state is None:
        raise _RefusedError(400, "Missing required node: state")
    if not isinstance(state, dict):
        raise _RefusedError(400, "State node must be an object")
    for part, content in state.items():
        if part not in _SECTIONS:
            raise _RefusedError(400, f"State contains an invalid node: {part}")
        if content is not None and not isinstance(content, dict):
            raise _RefusedError(400, f"{part.capitalize()} must be an object")
        if _depth(content) > MAX_DEPTH:
            raise _RefusedError(400, "JSON contains too many levels of nesting; maximum is 8")
    return state


def _depth(value: Any) -> int:
    match value:
        case dict():
            return 1 + max(map(_depth, value.values()), default=0)
        case list():
            return 1 + max(map(_depth, value), default=0)
        case _:
            return 0


def _merged(old: Tree, new: Tree) -> Tree:
    """Lay `new` over `old`: objects merge, null removes, everything else replaces."""
    result = copy.deepcopy(old)
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            below = result.get(key)
            result[key] = _merged(below if isinstance(below, dict) else {}, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _with_timestamps(value: Any, stamp: Tree) -> Any:
    """Return the shape of `value` with a timestamp at each leaf."""
    match value:
        case dict():
            return {key: _with_timestamps(below, stamp) for key, below in value.items() if below is not None}
        case list():
            return [_with_timestamps(below, stamp) for below in value]
        case _:
            return dict(stamp)


def _pruned(metadata: Any, state: Any) -> Any:
    """Take out the metadata of what is not there any more."""
    if not isinstance(state, dict):
        return metadata
    return {key: _pruned(below, state[key]) for key, below in metadata.items() if key in state}


def _delta(state: Tree) -> Tree:
    """What is desired and not reported."""
    return _missing(state.get("desired", {}), state.get("reported", {}))


def _missing(desired: Tree, reported: Any) -> Tree:
    result: Tree = {}
    for key, value in desired.items():
        known = reported.get(key) if isinstance(reported, dict) else None
        if isinstance(value, dict) and isinstance(known, dict):
            if below := _missing(value, known):
                result[key] = below
        elif value != known:
            result[key] = copy.deepcopy(value)
    return result


def _snapshot(shadow: _Shadow) -> Tree:
    return {
        "state": copy.deepcopy(shadow.state),
        "metadata": copy.deepcopy(shadow.metadata),
        "version": shadow.version,
    }


# --- on a broker ------------------------------------------------------------------------------------------------------


class ShadowService:
    """The service as an MQTT client; use as a context manager. It outlives the broker's restarts, documents and all."""

    def __init__(self, *, host: str, port: int) -> None:
        """Prepare to serve every thing on the broker at `host`:`port`."""
        self.store = ShadowStore()
        self.requests = 0  # that were answered
        self._host, self._port = host, port
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="simulated-shadow-service")
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_disconnect = lambda *_: self._ready.clear()
        self._client.on_message = self._received

    def __enter__(self) -> Self:
        """Connect and wait until it listens. Raises OperatorError when it does not."""
        try:
            self._client.connect(self._host, self._port)
        except OSError as error:
            raise OperatorError(f"no broker answers at {self._host}:{self._port}: {error}") from error
        self._client.loop_start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def wait_ready(self, timeout_s: float = _START_S) -> None:
        """Wait until it listens (again). Raises OperatorError when it does not within `timeout_s`."""
        if not self._ready.wait(timeout_s):
            raise OperatorError(f"the shadow service does not reach the broker at {self._host}:{self._port}")

    def desire(
        self,
        thing: str,
        inspection: str,
        release_id: str,
        *,
        mode: Literal["release", "ab"] = "release",
        share: float | None = None,
    ) -> None:
        """Want `release_id` (`name/version`) for one inspection of `thing`, as an operator of the cloud does."""
        wish: Tree = {"release": release_id, "mode": mode, "share": share}
        self.update(thing, {"desired": {"inspections": {inspection: wish}}})

    def update(self, thing: str, state: Tree) -> None:
        """Lay `state` over the shadow `kensa` of `thing` and publish what follows from it."""
        self._handle(thing, SHADOW_NAME, "update", json.dumps({"state": state}).encode())

    def reported(self, thing: str) -> Tree:
        """What the device reports, by inspection; empty before its first report."""
        with self._lock:
            inspections: Tree = self.store.state(thing, SHADOW_NAME).get("reported", {}).get("inspections", {})
        return inspections

    def _connected(
        self, client: paho.Client, _userdata: object, flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        client.subscribe([(f"$aws/things/+/shadow/name/+/{request}", 1) for request in ("get", "update", "delete")])

    def _received(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        found = _TOPIC.fullmatch(message.topic)
        if found is None:
            _log.warning("a request on %r is for no shadow", message.topic[:200])
            return
        thing, name, request = found.groups()
        self._handle(thing, name, request, bytes(message.payload))

    def _handle(self, thing: str, name: str, request: str, payload: bytes) -> None:
        with self._lock:  # the order of publishing is the order of the versions
            self.requests += 1
            for topic, content in self._answers(thing, name, request, payload):
                self._client.publish(topic, json.dumps(content, separators=(",", ":")), qos=1)

    def _answers(self, thing: str, name: str, request: str, payload: bytes) -> Iterator[tuple[str, Tree]]:
        for answer in self.store.handle(thing, name, request, payload):
            yield f"$aws/things/{thing}/shadow/name/{name}/{answer.suffix}", answer.content
