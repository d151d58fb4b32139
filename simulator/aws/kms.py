"""KMS: signs digests for securesystemslib's AWSSigner, which moto does not."""

from __future__ import annotations

import base64
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from moto.kms.models import kms_backends

from simulator.aws.api_protocol import ACCOUNT, AwsRequest, AwsResponse

_ALGORITHM: Final = "ECDSA_SHA_256"


def answer(call: AwsRequest) -> AwsResponse | None:
    """Answer `Sign` of a digest with a key of the type ECC_NIST_P256; everything else is moto's."""
    if call.operation != "Sign":
        return None
    request = call.json()
    if request.get("MessageType") != "DIGEST" or request.get("SigningAlgorithm") != _ALGORITHM:
        return None
    key: Any = kms_backends[ACCOUNT][call.region].describe_key(request["KeyId"])
    private = key.private_key.private_key
    signature = private.sign(base64.b64decode(request["Message"]), ec.ECDSA(Prehashed(SHA256())))
    told = {"KeyId": key.arn, "Signature": base64.b64encode(signature).decode(), "SigningAlgorithm": _ALGORITHM}
    return AwsResponse.of(told)
