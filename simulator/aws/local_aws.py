"""moto's services on a port of their own, with the project's code where AWS would run it.

    with LocalAws() as aws:
        os.environ |= aws.environment()           # AWS_ENDPOINT_URL and credentials that mean nothing
        aws.functions.add("kensa-begin", handlers.begin)
        aws.greengrass.on_deployment = device.take
        aws.client("stepfunctions").start_execution(...)

moto keeps objects, things, rules, topics, keys and the model registry, and executes state machines. Added here: Lambda
functions are the project's handlers (`functions`), training jobs run the entry point (`training`), Greengrass V2
(`greengrass`), rules of IoT Core (`rules`) and the transformation of Firehose (`firehose`), EventBridge's way to state
machines, KMS signatures of a digest, and faults on order (`faults`).

Promise: everything stays on the loopback; a process has one of these at a time, because moto's state is the process's;
`reset` makes it empty again in milliseconds, and at the end all its threads and children are gone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, Self
from unittest import mock

import boto3
from botocore.config import Config
from moto import backends
from moto.core.config import default_user_config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from simulator.aws import eventbridge, kms, step_functions
from simulator.aws.api_protocol import ACCOUNT, REGION, AwsRequest, AwsResponse, read_request
from simulator.aws.fault_injection import FaultInjector
from simulator.aws.firehose import Firehose
from simulator.aws.greengrass_cloud import GreengrassCloud
from simulator.aws.iot_rules import IotRules
from simulator.aws.lambda_functions import LambdaFunctions
from simulator.aws.training_jobs import TrainingJob, TrainingJobs, run_entry_point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HOST: Final = "127.0.0.1"
_BODIES_OF: Final = frozenset({"lambda", "greengrass", "sagemaker", "kms", "firehose"})
_SETTINGS: Final = {"stepfunctions": {"execute_state_machine": True}, "lambda": {"use_docker": False}}
_WAIT_S: Final = 10.0
_process_lock = threading.Lock()


class _QuietHandler(MotoRequestHandler):
    """Nothing on standard error for every request."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


class LocalAws:
    """See the module."""

    def __init__(self, *, runner: Callable[[TrainingJob], None] = run_entry_point) -> None:
        """`runner` does the work of training jobs."""
        if not _process_lock.acquire(blocking=False):
            raise RuntimeError("this process has a LocalAws already, and moto's state is the process's")
        self._moto: Callable[..., Iterable[bytes]] = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(HOST, 0, self._application, threaded=True, request_handler=_QuietHandler)
        self._server.daemon_threads = True  # type: ignore[attr-defined]  # one that keeps its connection must not hold the end
        self.url = f"http://{HOST}:{self._server.server_port}"
        self.faults = FaultInjector()
        self.functions = LambdaFunctions()
        self.training_jobs = TrainingJobs(endpoint_url=self.url, runner=runner)
        self.greengrass = GreengrassCloud(things_of=_things_of)
        self.firehose = Firehose(self.functions)
        self.rules = IotRules(client=self.client, to_stream=self.firehose.put)
        self._clients: dict[str, Any] = {}
        self._client_lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._server.serve_forever, name="local-aws", daemon=True)

    def __enter__(self) -> Self:
        """Serve from now on."""
        port = {"MOTO_PORT": str(self._server.server_port)}  # where moto's state machines find the services
        self._stack.enter_context(mock.patch.dict(os.environ, port))
        modules = tuple(backends.list_of_moto_modules())  # a look at 175 folders for every request
        self._stack.enter_context(mock.patch.object(backends, "list_of_moto_modules", return_value=modules))
        self._stack.enter_context(step_functions.patched())
        self._stack.enter_context(eventbridge.patched(self._send))
        for service, settings in _SETTINGS.items():
            self._stack.enter_context(mock.patch.dict(default_user_config[service], settings))  # type: ignore[literal-required]
        self._thread.start()
        self.greengrass.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End everything that runs."""
        self._stop_work()
        self.greengrass.close()
        self._server.shutdown()
        self._thread.join(_WAIT_S)
        self._server.server_close()
        self._stack.close()
        _reset_moto()
        _process_lock.release()

    def environment(self) -> dict[str, str]:
        """What AWS tools and the project's handlers need to find this cloud."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": f"{HOST},localhost",
        }

    def client(self, service: str) -> Any:
        """A client of boto3 for this cloud; one a service, for any thread."""
        with self._client_lock:
            if service not in self._clients:
                self._clients[service] = boto3.session.Session().client(
                    service,
                    endpoint_url=self.url,
                    region_name=REGION,
                    aws_access_key_id="local",
                    aws_secret_access_key="local",  # noqa: S106 - means nothing
                    config=Config(retries={"max_attempts": 0}, proxies={}),
                )
            return self._clients[service]

    def reset(self) -> None:
        """Make it empty: no objects, no executions, no deployments, no faults, the real training. Functions stay."""
        self._stop_work()
        self.training_jobs.runner = run_entry_point
        _reset_moto()
        self.greengrass.clear()
        self.firehose.clear()
        self.faults.clear()
        self.functions.clear()
        self.rules.failures.clear()

    def publish(self, topic: str, payload: bytes) -> int:
        """Let IoT Core's rules see a message; returns how many rules took it. Fits as a subscriber's callback."""
        return self.rules.publish(topic, payload)

    def fire_schedule(self, rule_name: str) -> None:
        """Let the time of a scheduled rule of EventBridge come."""
        from moto.events.models import events_backends  # noqa: PLC0415 - after moto was reset

        eventbridge.fire_schedule(events_backends[ACCOUNT][REGION].describe_rule(rule_name, "default"), self._send)

    def wait_for(self, execution_arn: str, *, timeout_s: float = 120.0) -> dict[str, Any]:
        """Wait until an execution has ended; returns its description. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while True:
            told: dict[str, Any] = self.client("stepfunctions").describe_execution(executionArn=execution_arn)
            if told["status"] != "RUNNING":
                return told
            if time.monotonic() > deadline:
                raise TimeoutError(f"{execution_arn} still runs after {timeout_s:.0f} s")
            time.sleep(0.02)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        call = read_request(environ, bodies_of=_BODIES_OF)
        answer = None if call is None else self._answer(call, environ)
        if answer is None:
            return self._moto(environ, start_response)
        headers = [*answer.headers, ("Content-Length", str(len(answer.body)))]
        start_response(f"{answer.status} .", headers)
        return [answer.body]

    def _answer(self, call: AwsRequest, environ: dict[str, Any]) -> AwsResponse | None:
        if (fault := self.faults.take_fault(call)) is not None:
            return fault
        if call.service == "sagemaker":
            return self.training_jobs.answer(call, lambda: self._forward(environ, call))
        added = {
            "lambda": self.functions.answer,
            "greengrass": self.greengrass.answer,
            "kms": kms.answer,
            "firehose": self.firehose.answer,
        }
        return added[call.service](call) if call.service in added else None

    def _forward(self, environ: dict[str, Any], call: AwsRequest) -> AwsResponse:
        """Ask moto."""
        begun: list[tuple[str, list[tuple[str, str]]]] = []
        environ["wsgi.input"] = io.BytesIO(call.body)
        body = b"".join(self._moto(environ, lambda status, headers, *_: begun.append((status, headers))))
        status, headers = begun[0]
        return AwsResponse(int(status.split()[0]), body, tuple(h for h in headers if h[0].lower() != "content-length"))

    def _send(self, arn: str, event: Any) -> None:
        """An event on its way to a state machine or a function."""
        if ":states:" in arn:
            self.client("stepfunctions").start_execution(
                stateMachineArn=arn, name=str(uuid.uuid4()), input=json.dumps(event)
            )
        else:
            self.functions.call(arn.rpartition(":")[2], event)

    def _stop_work(self) -> None:
        from moto.stepfunctions.parser.models import stepfunctions_parser_backends  # noqa: PLC0415 - slow to import

        for machine in list(stepfunctions_parser_backends[ACCOUNT][REGION].state_machines):
            for execution in machine.executions:
                if execution.status == "RUNNING":
                    execution.stop(stop_date=time.time(), error=None, cause=None)
        self.training_jobs.close()


def _reset_moto() -> None:
    from moto.moto_api._internal.models import moto_api_backend  # noqa: PLC0415 - moto's own way, without a request

    moto_api_backend.reset()


def _things_of(target_arn: str) -> list[str]:
    """Names of the things of a group or of the one thing that an ARN names. Raises LookupError."""
    from moto.iot.models import iot_backends  # noqa: PLC0415 - as above

    backend = iot_backends[ACCOUNT][REGION]
    kind, _, name = target_arn.rpartition(":")[2].partition("/")
    if kind == "thing":
        if not any(thing.thing_name == name for thing in backend.things.values()):
            raise LookupError(name)
        return [name]
    for group in backend.thing_groups.values():
        if group.thing_group_name == name:
            return [thing.thing_name for thing in group.things.values()]
    raise LookupError(name)
