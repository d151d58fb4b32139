"""Creates AWS clients from the environment, one for each service and process.

The environment sets region, credentials and AWS_ENDPOINT_URL. Promise: a client may be used by any thread; botocore
retries throttled and failed calls (5 attempts, standard mode); the final failure is an AwsError that names the
operation and the remedy.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from agent.errors import KensaError, MissingExtraError
from pipeline.cloud.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.cloud.storage import Storage

_TRIES: Final = 5
_REMEDIES: Final = {
    "AccessDeniedException": "The role lacks the permission: see its policy in pipeline/infra/template.yaml",
    "AccessDenied": "The role lacks the permission: see its policy in pipeline/infra/template.yaml",
    "ExpiredTokenException": "The credentials have expired: sign in again",
    "ExpiredToken": "The credentials have expired: sign in again",
    "UnrecognizedClientException": "The access key is unknown: sign in again",
    "InvalidClientTokenId": "The access key is unknown: sign in again",
}
_lock = threading.Lock()
_clients: dict[tuple[str, ...], Any] = {}


class AwsError(KensaError):
    """AWS refused a call or cannot be reached; the text names the request and the remedy."""

    exit_code = 4

    def __init__(self, text: str, *, code: str = "") -> None:
        """`code` is the service's name of the error, "" if it did not answer."""
        super().__init__(text)
        self.code = code


def client(service: str) -> Any:
    """The boto3 client of a service. Raises MissingExtraError, AwsError."""
    try:
        import boto3  # noqa: PLC0415 - optional, and 0.4 s
        import botocore.config  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} is missing: pip install 'kensa[cloud]'") from error
    names = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID")
    key = (service, *(os.environ.get(name, "") for name in names))
    with _lock:  # boto3's default session is not thread-safe
        if key not in _clients:
            config = botocore.config.Config(
                connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": _TRIES}
            )
            with translate_aws_errors(service):
                _clients[key] = boto3.session.Session().client(service, config=config)
        return _clients[key]


def storage(uri: str) -> Storage:
    """The storage at `uri`; for S3 on the shared client, because a new one costs 0.1 s. Raises StorageError."""
    return open_storage(uri, client=client("s3") if uri.startswith("s3://") else None)


@contextlib.contextmanager
def translate_aws_errors(what: str) -> Iterator[None]:
    """Translate botocore's errors; `what` names the request. Raises AwsError."""
    import botocore.exceptions  # noqa: PLC0415 - `client` has told if it is missing

    try:
        yield
    except botocore.exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        remedy = _REMEDIES.get(code, "Try again")
        raise AwsError(f"{what}: {error}. {remedy}.", code=code) from error
    except (botocore.exceptions.BotoCoreError, OSError) as error:
        raise AwsError(f"{what}: {error}. Check network, region and credentials.") from error
