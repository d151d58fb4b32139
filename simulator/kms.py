"""A stand-in for AWS KMS on the loopback: signing keys that never leave it, for boto3 and securesystemslib's AWSSigner.

    with KmsServer() as server:
        os.environ |= server.environment()
        ...  # `kensa release init ... --signer targets=awskms:alias/targets`

A key of the type ECC_NIST_P256 is made when its id or alias is first asked for. Any signature of a request is taken.
"""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HOST: Final = "127.0.0.1"
_ALGORITHM: Final = "ECDSA_SHA_256"
_MAX_BODY_BYTES: Final = 64 * 1024
_POLL_S: Final = 0.05
_WAIT_S: Final = 5.0


class KmsServer:
    """See the module."""

    def __init__(self) -> None:
        """No key yet; `calls` counts the operations that were asked for, by name."""
        self.calls: list[str] = []
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._lock = threading.Lock()
        self._server = _Server((HOST, 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="kms-server", daemon=True
        )

    def __enter__(self) -> Self:
        """Answer from now on."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; the keys are gone."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_WAIT_S)

    def environment(self) -> dict[str, str]:
        """What boto3 needs to find this server."""
        return {
            "AWS_ENDPOINT_URL_KMS": f"http://{HOST}:{self._server.server_address[1]}",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "simulator",
            "AWS_SECRET_ACCESS_KEY": "simulator",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """The body of the answer; None for an operation that this KMS does not know."""
        key_id = str(request["KeyId"])
        with self._lock:
            self.calls.append(operation)
            key = self._keys.setdefault(key_id, ec.generate_private_key(ec.SECP256R1()))
        if operation == "GetPublicKey":
            der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return {
                "KeyId": key_id,
                "PublicKey": base64.b64encode(der).decode(),
                "KeySpec": "ECC_NIST_P256",
                "KeyUsage": "SIGN_VERIFY",
                "SigningAlgorithms": [_ALGORITHM],
            }
        if operation == "Sign" and request["MessageType"] == "DIGEST" and request["SigningAlgorithm"] == _ALGORITHM:
            signature = key.sign(base64.b64decode(request["Message"]), ec.ECDSA(Prehashed(SHA256())))
            return {
                "KeyId": key_id,
                "Signature": base64.b64encode(signature).decode(),
                "SigningAlgorithm": _ALGORITHM,
            }
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: KmsServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def do_POST(self) -> None:
        """One operation of the JSON 1.1 protocol."""
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        length = min(int(self.headers.get("Content-Length", "0")), _MAX_BODY_BYTES)
        answer = self.server.owner.answer(operation, json.loads(self.rfile.read(length)))
        body = json.dumps(answer or {"__type": "UnsupportedOperationException", "message": operation}).encode()
        self.send_response(400 if answer is None else 200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
