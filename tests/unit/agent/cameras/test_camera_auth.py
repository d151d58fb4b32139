"""Basic and Digest as HTTP and RTSP cameras ask for them."""

from __future__ import annotations

import re
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cameras.camera_auth import CameraCredentials, authorization_header

MUFASA = CameraCredentials("Mufasa", "Circle of Life")
# RFC 7616, section 3.9.1: the same resource, with either hash
RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
CLIENT_NONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


def answered(
    *challenges: str, login: CameraCredentials = MUFASA, method: str = "GET", uri: str = "/dir/index.html"
) -> str | None:
    return authorization_header(challenges, login, method=method, uri=uri)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_answers_are_those_of_the_standards_examples(
    algorithm: str, response: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: CLIENT_NONCE)
    answer = answered(RFC_7616.format(algorithm))
    assert answer is not None
    assert f'response="{response}"' in answer
    assert 'username="Mufasa"' in answer
    assert f"algorithm={algorithm}" in answer
    assert "qop=auth, nc=00000001" in answer
    assert 'opaque="FQhe/' in answer


def test_the_answer_without_qop_is_that_of_the_old_standards_example() -> None:
    # RFC 2069, section 2.4, with the response of its errata
    challenge = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c"'
    answer = answered(challenge, login=CameraCredentials("Mufasa", "CircleOfLife"))
    assert answer is not None
    assert 'response="1949323746fe6a43ef61f9606e7febea"' in answer
    assert "qop" not in answer


def test_the_strongest_scheme_is_taken_and_what_nobody_can_answer_is_none() -> None:
    sha, md5, basic = RFC_7616.format("SHA-256"), RFC_7616.format('"MD5"'), 'Basic realm="a, b"'
    assert "SHA-256" in str(answered(basic, md5, sha))
    assert "SHA-256" in str(answered(f"{basic}, {md5}, {sha}"))
    assert str(answered(basic, md5)).startswith("Digest ")
    assert answered(basic) == "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl"
    assert str(answered("Negotiate", basic)).startswith("Basic ")
    for useless in ("Negotiate", "NTLM TlRMTVNTUAAC=", "Digest realm=x", RFC_7616.format("SHA-512-256"), "", ",,,=="):
        assert answered(useless) is None
    assert answered(RFC_7616.format("MD5").replace("auth, auth-int", "auth-int")) is None


@given(st.lists(st.text(max_size=80), max_size=4), st.text(max_size=20), st.text(max_size=20))
def test_any_challenge_is_answered_or_not_but_never_fails_and_digest_hides_the_password(
    challenges: list[str], username: str, password: str
) -> None:
    answered(*challenges, login=CameraCredentials(username, password))
    answer = answered(RFC_7616.format("MD5"), login=CameraCredentials("op", f"Zq7{password}"))
    assert answer is not None
    assert "Zq7" not in re.sub(r'cnonce="[^"]*"', "", answer)
    assert "Zq7" not in repr(CameraCredentials("op", f"Zq7{password}"))
