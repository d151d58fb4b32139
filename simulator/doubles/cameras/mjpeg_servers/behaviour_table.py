"""The table: what MJPEG cameras and servers are reported to send."""

from __future__ import annotations

from typing import Final

from simulator.doubles.cameras.mjpeg_servers.mjpeg_responses import (
    HEAD,
    MULTIPART,
    SEGMENT,
    STREAM,
    USER,
    ServerBehaviour,
    basic,
    chunked,
    concatenated_jpegs,
    digest,
    first_headers_in_response_head,
    fixed_response,
    multipart_chunk,
    multipart_stream,
    no_first_boundary,
    only_http_1_1,
    redirect,
    silent_basic,
    stale_digest,
    stream_of,
    to_png,
    unauthorized_response,
    with_segment,
    with_thumbnail,
)

_TYPE: Final = b"Content-Type: image/jpeg\r\n"

SERVER_BEHAVIOURS: Final[dict[str, ServerBehaviour]] = {
    "as the standard says": ServerBehaviour("Axis, most cameras", multipart_stream()),
    # how the answer comes
    "chunks": ServerBehaviour("ESP32 (ESP-IDF's server), Tornado, Node.js", chunked(None)),
    "small chunks with extensions": ServerBehaviour("proxies", chunked(57, b";x=1")),
    "announces chunks and sends none": ServerBehaviour(
        "own servers", multipart_stream(STREAM[:-2] + b"Transfer-Encoding: chunked\r\n\r\n")
    ),
    "HTTP/1.1 only": ServerBehaviour("Envoy and other proxies", only_http_1_1),
    "a provisional answer first": ServerBehaviour(
        "proxies", multipart_stream(b"HTTP/1.1 100 Continue\r\n\r\n" + STREAM)
    ),
    "no head at all": ServerBehaviour("HTTP/0.9 firmware", multipart_stream(b"")),
    "a status line and nothing else": ServerBehaviour("own servers", multipart_stream(b"HTTP/1.0 200 OK\r\n\r\n")),
    "ICY": ServerBehaviour("Shoutcast-like streamers", multipart_stream(b"ICY 200 OK\r\n" + MULTIPART)),
    "a folded header": ServerBehaviour(
        "old firmware", multipart_stream(HEAD + b"Content-Type: multipart/x-mixed-replace;\r\n boundary=frame\r\n\r\n")
    ),
    "bare line feeds": ServerBehaviour(
        "CGI scripts, Busybox",
        lambda _, pictures: b"".join(
            (STREAM if n == 0 else b"").replace(b"\r\n", b"\n")
            + multipart_chunk(p, after=b"")[: -len(p)].replace(b"\r\n", b"\n")
            + p
            + b"\n"
            for n, p in enumerate(pictures)
        ),
    ),
    "the answer has a length of 0": ServerBehaviour(
        "own servers", multipart_stream(STREAM[:-2] + b"Content-Length: 0\r\n\r\n")
    ),
    "the answer has a huge length": ServerBehaviour(
        "D-Link", multipart_stream(STREAM[:-2] + b"Content-Length: 9999999999\r\n\r\n")
    ),
    # what type it announces
    "multipart/mixed": ServerBehaviour(
        "Airlink101", multipart_stream(HEAD + b"Content-Type: multipart/mixed; boundary=frame\r\n\r\n")
    ),
    "no type": ServerBehaviour("ffmpeg -listen 1", multipart_stream(HEAD + b"Server: x\r\n\r\n")),
    "text/html around a stream": ServerBehaviour(
        "CGI scripts", multipart_stream(HEAD + b"Content-Type: text/html\r\n\r\n")
    ),
    "JPEGs one after another": ServerBehaviour(
        "Canon live view", concatenated_jpegs(b"Content-Type: application/octet-stream\r\n")
    ),
    "video/x-motion-jpeg": ServerBehaviour(
        "capture boards", concatenated_jpegs(b"Content-Type: video/x-motion-jpeg\r\n")
    ),
    "image/jpeg without end": ServerBehaviour("old Panasonic", concatenated_jpegs(b"Content-Type: image/jpeg\r\n")),
    # the boundary
    "another boundary than announced": ServerBehaviour("Mobotix, many OEMs", multipart_stream(name=b"--myboundary")),
    "the dashes are announced": ServerBehaviour(
        "Sony SNC, Panasonic HE40",
        multipart_stream(HEAD + b"Content-Type: multipart/x-mixed-replace; boundary=--frame\r\n\r\n"),
    ),
    "a quoted boundary": ServerBehaviour(
        "Edimax, Mobotix", multipart_stream(HEAD + b'Content-Type: multipart/x-mixed-replace; boundary="frame"\r\n\r\n')
    ),
    "blanks around the equals sign": ServerBehaviour(
        "Panasonic BL-VT164P",
        multipart_stream(HEAD + b"Content-Type: multipart/x-mixed-replace;boundary =--frame\r\n\r\n"),
    ),
    "no boundary announced": ServerBehaviour(
        "own servers", multipart_stream(HEAD + b"Content-Type: multipart/x-mixed-replace\r\n\r\n")
    ),
    "no dashes before the boundary": ServerBehaviour("old OEM firmware", multipart_stream(name=b"frame")),
    "a boundary of one letter": ServerBehaviour(
        "own servers",
        multipart_stream(HEAD + b"Content-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n", name=b"--f"),
    ),
    "no line break before the boundary": ServerBehaviour("Linksys, Tornado apps", multipart_stream(after=b"")),
    "the boundary twice": ServerBehaviour("Foscam G2", multipart_stream(name=b"--frame\r\n--frame")),
    "dashes after each boundary": ServerBehaviour("Amcrest", multipart_stream(name=b"--frame--")),
    "headers right behind the boundary": ServerBehaviour(
        "Viseron", stream_of(lambda p: b"--frame" + multipart_chunk(p)[9:])
    ),
    "a text before the first boundary": ServerBehaviour(
        "RFC 2046", multipart_stream(STREAM + b"This is a multipart message.\r\n\r\n")
    ),
    "a closing boundary": ServerBehaviour("RFC 2046", stream_of(multipart_chunk, end=b"--frame--\r\nThe end.\r\n")),
    "no first boundary, its headers in the head": ServerBehaviour("Tasmota", first_headers_in_response_head),
    "no first boundary": ServerBehaviour("ESP32 examples until 2020", no_first_boundary),
    # a part's headers
    "no length": ServerBehaviour("Mobotix, ffmpeg, Flask apps", multipart_stream(head=_TYPE)),
    "no length and no line break": ServerBehaviour("own servers", multipart_stream(head=_TYPE, after=b"")),
    "no headers": ServerBehaviour("GStreamer pipelines", multipart_stream(head=b"")),
    "no empty line before the picture": ServerBehaviour(
        "old firmware", stream_of(lambda p: b"--frame\r\n" + _TYPE + p + b"\r\n")
    ),
    "lower case, no blank": ServerBehaviour(
        "lighttpd CGIs",
        stream_of(lambda p: multipart_chunk(p, head=b"content-type:image/jpeg\r\ncontent-length:%d\r\n" % len(p))),
    ),
    "two blanks before the length": ServerBehaviour(
        "Panasonic", stream_of(lambda p: multipart_chunk(p, head=_TYPE + b"Content-length:  %d\r\n" % len(p)))
    ),
    "image/jpg": ServerBehaviour("many OEMs", multipart_stream(head=b"Content-Type: image/jpg\r\n")),
    "parameters after the type": ServerBehaviour(
        "Trendnet TV-IP302PI", multipart_stream(head=b"Content-Type: image/jpeg;size=640x480\r\n")
    ),
    "text/plain around a JPEG": ServerBehaviour("CGI scripts", multipart_stream(head=b"Content-Type: text/plain\r\n")),
    "more and longer headers": ServerBehaviour(
        "D-Link, Axis, mjpg-streamer",
        stream_of(
            lambda p: multipart_chunk(
                p,
                head=_TYPE
                + b"Content-Length: %d\r\nX-Timestamp: 295528.317\r\nDate: 01-01-2011 03:30:45 AM IO_0_PT_003_%s\r\n"
                % (len(p), b"0" * 150),
            )
        ),
    ),
    "a header without a colon": ServerBehaviour("OEM firmware", multipart_stream(head=_TYPE + b"no colon here\r\n")),
    "a length that is too short": ServerBehaviour(
        "OEM firmware", stream_of(lambda p: multipart_chunk(p, head=_TYPE + b"Content-Length: %d\r\n" % (len(p) - 100)))
    ),
    "a length that is too long": ServerBehaviour(
        "Arducam", stream_of(lambda p: multipart_chunk(p, head=_TYPE + b"Content-Length: %d\r\n" % (len(p) + 100)))
    ),
    "a length of 0": ServerBehaviour("OEM firmware", multipart_stream(head=_TYPE + b"Content-Length: 0\r\n")),
    "a length that is no number": ServerBehaviour(
        "OEM firmware", multipart_stream(head=_TYPE + b"Content-Length: unknown\r\n")
    ),
    "text between the pictures": ServerBehaviour(
        "Axis with events, Reolink with sound",
        stream_of(
            lambda p: (
                multipart_chunk(b"speed=1", head=b"Content-Type: text/plain\r\nContent-Length: 7\r\n")
                + multipart_chunk(p)
            )
        ),
    ),
    # the image
    "zeros after the picture": ServerBehaviour(
        "ESP32, Raspberry Pi, Arducam",
        stream_of(lambda p: multipart_chunk(p + bytes(61), head=_TYPE + b"Content-Length: %d\r\n" % (len(p) + 61))),
    ),
    "other data after the picture": ServerBehaviour(
        "Dahua",
        stream_of(
            lambda p: multipart_chunk(
                p + b"DHAV\xff\xd8\xff\x00\x12" * 9, head=_TYPE + b"Content-Length: %d\r\n" % (len(p) + 81)
            )
        ),
    ),
    "empty lines before the picture": ServerBehaviour(
        "old firmware", stream_of(lambda p: b"--frame\r\n" + _TYPE + b"\r\n\r\n\r\n" + p + b"\r\n")
    ),
    "a thumbnail inside": ServerBehaviour("cameras with EXIF", multipart_stream(head=_TYPE), transform=with_thumbnail),
    "fill bytes between segments": ServerBehaviour(
        "ITU-T T.81, B.1.1.2", multipart_stream(head=_TYPE), transform=lambda p: p[:2] + b"\xff\xff" + p[2:]
    ),
    "markers inside a segment": ServerBehaviour(
        "cameras with vendor data",
        multipart_stream(head=_TYPE),
        transform=with_segment(SEGMENT, b"\xff\xd9\xff\xd8\r\n"),
    ),
    "PNG": ServerBehaviour(
        "own servers",
        stream_of(lambda p: multipart_chunk(p, head=b"Content-Type: image/png\r\nContent-Length: %d\r\n" % len(p))),
        transform=to_png,
    ),
    # who asks, and where
    "Basic": ServerBehaviour("old cameras", basic, user=USER),
    "Digest with MD5": ServerBehaviour("Axis, Hikvision, Dahua", digest("MD5"), user=USER),
    "Digest without qop": ServerBehaviour("RFC 2069 firmware", digest("MD5", qop=False), user=USER),
    "Digest with MD5-sess": ServerBehaviour("RFC 7616", digest("MD5", session=True), user=USER),
    "Digest with SHA-256": ServerBehaviour("Hikvision since 2020", digest("SHA-256"), user=USER),
    "Digest beside Basic": ServerBehaviour("Trendnet", digest("MD5", also=b'Basic realm="c"'), user=USER),
    "Digest with a nonce that is too old at first": ServerBehaviour("Axis", stale_digest, user=USER),
    "a refusal without a challenge": ServerBehaviour("OEM firmware", silent_basic(b"401 Unauthorized"), user=USER),
    "403 for those who say nothing": ServerBehaviour("OEM firmware", silent_basic(b"403 Forbidden"), user=USER),
    "moved on the same host": ServerBehaviour("cameras with a login page", redirect(b"/moved/stream?x=1")),
    # what is refused by name
    "a page": ServerBehaviour(
        "the camera's web page",
        fixed_response(HEAD + b"Content-Type: text/html\r\n\r\n<html>"),
        expected_error="'text/html', not a stream",
    ),
    "one picture": ServerBehaviour(
        "snapshot addresses",
        lambda _, pictures: HEAD + _TYPE + b"Content-Length: %d\r\n\r\n" % len(pictures[0]) + pictures[0],
        expected_error="give the address of its MJPEG stream",
    ),
    "one picture without a length": ServerBehaviour(
        "snapshot addresses",
        lambda _, pictures: HEAD + _TYPE + b"\r\n" + pictures[0],
        expected_error="give the address of its MJPEG stream",
    ),
    "compressed": ServerBehaviour(
        "a proxy that compresses",
        multipart_stream(STREAM[:-2] + b"Content-Encoding: gzip\r\n\r\n"),
        expected_error="switch that off in camera or proxy",
    ),
    "H.264 in parts": ServerBehaviour(
        "Amcrest's main stream",
        multipart_stream(head=b"Content-Type: video/x-h264\r\nContent-Length: 9\r\n", after=b""),
        expected_error="choose MJPEG in its settings",
        transform=lambda _: b"\x00\x00\x00\x01\x67\x64\x00\x1f\xac",
    ),
    "moved to another host": ServerBehaviour(
        "a router's page",
        redirect(b"http://router.example/login?k=s3cret"),
        expected_error="it moved to http://router.example: give that address",
    ),
    "moved in a circle": ServerBehaviour(
        "a login page",
        fixed_response(b"HTTP/1.0 302 Found\r\nLocation: /again\r\n\r\n"),
        expected_error="again and again",
    ),
    "a user is needed": ServerBehaviour("any camera", basic, expected_error="asks for a user"),
    "another password": ServerBehaviour(
        "any camera", digest("MD5", also=b"Negotiate"), user="other", expected_error="check user and password"
    ),
    "another kind of login": ServerBehaviour(
        "a domain's proxy",
        fixed_response(unauthorized_response(b"Negotiate", b"NTLM")),
        user=USER,
        expected_error="neither Basic nor Digest",
    ),
    "no right": ServerBehaviour(
        "any camera", fixed_response(b"HTTP/1.1 403 Forbidden\r\n\r\n"), user=USER, expected_error="HTTP 403"
    ),
    "no such path": ServerBehaviour(
        "any camera", fixed_response(b"HTTP/1.1 404 Not Found\r\n\r\n"), expected_error="check the path"
    ),
    "too many viewers": ServerBehaviour(
        "cameras with few slots", fixed_response(b"HTTP/1.0 503 Service Unavailable\r\n\r\n"), expected_error="HTTP 503"
    ),
    "RTSP": ServerBehaviour(
        "the wrong port", fixed_response(b"RTSP/1.0 400 Bad Request\r\n\r\n"), expected_error="kind: rtsp"
    ),
    "TLS": ServerBehaviour(
        "the wrong port", fixed_response(b"\x15\x03\x01\x00\x02\x02\x46"), expected_error="https://"
    ),
    "an echo of the request": ServerBehaviour(
        "the wrong port", lambda request, _: request, user=USER, expected_error="does not answer in HTTP"
    ),
    "headers without end": ServerBehaviour(
        "broken firmware", fixed_response(HEAD + b"X: " + b"x" * 40_000), expected_error="do not end within"
    ),
    "part headers without end": ServerBehaviour(
        "broken firmware",
        fixed_response(STREAM + b"--frame\r\n" + b"X: x\r\n" * 9_000),
        expected_error="do not end within",
    ),
    "an enormous part": ServerBehaviour(
        "broken firmware",
        fixed_response(STREAM + b"--frame\r\nContent-Length: 99999999999\r\n\r\n"),
        expected_error="bytes comes; at most",
    ),
    "nothing": ServerBehaviour(
        "a dead service behind an open port", fixed_response(b""), expected_error="without an answer"
    ),
}
