"""A request to AWS as a WSGI server receives it, and answers as AWS writes them."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote

import botocore.session

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ACCOUNT: Final = "123456789012"  # moto's
REGION: Final = "eu-central-1"
_MAX_BODY_BYTES: Final = 64 * 1024**2
_REST: Final = {"greengrass": "greengrassv2", "lambda": "lambda", "iot": "iot"}  # by the name in a signature
_SCOPE = re.compile(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/aws4_request")


@dataclass(frozen=True, slots=True)
class AwsResponse:
    """What a service says."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, tree: Any, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> AwsResponse:
        """JSON."""
        return cls(status, json.dumps(tree).encode(), (("Content-Type", "application/json"), *headers))

    @classmethod
    def error(cls, code: str, message: str, *, status: int = 400) -> AwsResponse:
        """An error as services of both JSON protocols write it."""
        return cls.of({"__type": code, "message": message, "Message": message}, status=status, headers=_error(code))


def _error(code: str) -> tuple[tuple[str, str], ...]:
    return (("x-amzn-ErrorType", code), ("x-amzn-RequestId", "00000000-0000-0000-0000-000000000000"))


@dataclass(frozen=True, slots=True)
class AwsRequest:
    """One request."""

    service: str  # as its signature names it: s3, lambda, sagemaker, states, greengrass ...
    region: str
    operation: str  # CreateDeployment; "" where it is not known
    path: Mapping[str, str]  # variables of the path
    query: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as JSON."""
        tree: dict[str, Any] = json.loads(self.body or b"{}")
        return tree


def read_request(environ: dict[str, Any], *, bodies_of: Iterable[str]) -> AwsRequest | None:
    """The call that a request makes; None for one that is not signed. Bodies are read for `bodies_of` services only."""
    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    if scope is None:
        return None
    region, service = scope.groups()
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    operation = target.rpartition(".")[2]
    path: dict[str, str] = {}
    if not operation and service in _REST:
        operation, path = _rest(_REST[service], environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""))
    query = {key: values[0] for key, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
    body = _body(environ) if service in bodies_of else b""
    return AwsRequest(service, region, operation, path, query, body)


def _body(environ: dict[str, Any]) -> bytes:
    length = min(int(environ.get("CONTENT_LENGTH") or 0), _MAX_BODY_BYTES)
    body: bytes = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = io.BytesIO(body)  # moto reads it again
    return body


@cache
def _operations(service: str) -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """(method, pattern of the path, operation) of a service of the REST protocol, longest paths first."""
    model = botocore.session.Session().get_service_model(service)
    found = []
    for name in model.operation_names:
        http = model.operation_model(name).http
        uri = http["requestUri"].partition("?")[0].rstrip("/")
        pattern = re.sub(r"\\\{(\w+)(\\\+)?\\\}", lambda m: f"(?P<{m[1]}>{'.+' if m[2] else '[^/]+'})", re.escape(uri))
        found.append((http["method"], re.compile(pattern + "/?"), name))
    return tuple(sorted(found, key=lambda entry: -len(entry[1].pattern)))


def _rest(service: str, method: str, path: str) -> tuple[str, dict[str, str]]:
    for its_method, pattern, name in _operations(service):
        if its_method == method and (match := pattern.fullmatch(path)):
            return name, {key: unquote(value) for key, value in match.groupdict().items()}
    return "", {}
