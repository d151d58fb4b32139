"""The table: what MJPEG cameras and servers are reported to send."""

from __future__ import annotations

from typing import Final

from simulator.mjpeg_servers.answers import (
    HEAD,
    MULTIPART,
    SEGMENT,
    STREAM,
    USER,
    Behaviour,
    as_png,
    basic,
    chunked,
    digest,
    each,
    first_part_in_the_head,
    fixed,
    moved,
    no_first_boundary,
    only_http_1_1,
    part,
    raw,
    refusal,
    silent_basic,
    stale_digest,
    stream,
    with_segment,
    with_thumbnail,
)

_TYPE: Final = b"Content-Type: image/jpeg\r\n"

BEHAVIOURS: Final[dict[str, Behaviour]] = {
    "as the standard says": Behaviour("Axis, most cameras", stream()),
    # how the answer comes
    "chunks": Behaviour("ESP32 (ESP-IDF's server), Tornado, Node.js", chunked(None)),
    "small chunks with extensions": Behaviour("proxies", chunked(57, b";x=1")),
    "announces chunks and sends none": Behaviour(
        "own servers", stream(STREAM[:-2] + b"Transfer-Encoding: chunked\r\n\r\n")
    ),
    "HTTP/1.1 only": Behaviour("Envoy and other proxies", only_http_1_1),
    "a provisional answer first": Behaviour("proxies", stream(b"HTTP/1.1 100 Continue\r\n\r\n" + STREAM)),
    "no head at all": Behaviour("HTTP/0.9 firmware", stream(b"")),
    "a status line and nothing else": Behaviour("own servers", stream(b"HTTP/1.0 200 OK\r\n\r\n")),
    "ICY": Behaviour("Shoutcast-like streamers", stream(b"ICY 200 OK\r\n" + MULTIPART)),
    "a folded header": Behaviour(
        "old firmware", stream(HEAD + b"Content-Type: multipart/x-mixed-replace;\r\n boundary=frame\r\n\r\n")
    ),
    "bare line feeds": Behaviour(
        "CGI scripts, Busybox",
        lambda _, pictures: b"".join(
            (STREAM if n == 0 else b"").replace(b"\r\n", b"\n")
            + part(p, after=b"")[: -len(p)].replace(b"\r\n", b"\n")
            + p
            + b"\n"
            for n, p in enumerate(pictures)
        ),
    ),
    "the answer has a length of 0": Behaviour("own servers", stream(STREAM[:-2] + b"Content-Length: 0\r\n\r\n")),
    "the answer has a huge length": Behaviour("D-Link", stream(STREAM[:-2] + b"Content-Length: 9999999999\r\n\r\n")),
    # what type it announces
    "multipart/mixed": Behaviour("Airlink101", stream(HEAD + b"Content-Type: multipart/mixed; boundary=frame\r\n\r\n")),
    "no type": Behaviour("ffmpeg -listen 1", stream(HEAD + b"Server: x\r\n\r\n")),
    "text/html around a stream": Behaviour("CGI scripts", stream(HEAD + b"Content-Type: text/html\r\n\r\n")),
    "JPEGs one after another": Behaviour("Canon live view", raw(b"Content-Type: application/octet-stream\r\n")),
    "video/x-motion-jpeg": Behaviour("capture boards", raw(b"Content-Type: video/x-motion-jpeg\r\n")),
    "image/jpeg without end": Behaviour("old Panasonic", raw(b"Content-Type: image/jpeg\r\n")),
    # the boundary
    "another boundary than announced": Behaviour("Mobotix, many OEMs", stream(name=b"--myboundary")),
    "the dashes are announced": Behaviour(
        "Sony SNC, Panasonic HE40", stream(HEAD + b"Content-Type: multipart/x-mixed-replace; boundary=--frame\r\n\r\n")
    ),
    "a quoted boundary": Behaviour(
        "Edimax, Mobotix", stream(HEAD + b'Content-Type: multipart/x-mixed-replace; boundary="frame"\r\n\r\n')
    ),
    "blanks around the equals sign": Behaviour(
        "Panasonic BL-VT164P", stream(HEAD + b"Content-Type: multipart/x-mixed-replace;boundary =--frame\r\n\r\n")
    ),
    "no boundary announced": Behaviour(
        "own servers", stream(HEAD + b"Content-Type: multipart/x-mixed-replace\r\n\r\n")
    ),
    "no dashes before the boundary": Behaviour("old OEM firmware", stream(name=b"frame")),
    "a boundary of one letter": Behaviour(
        "own servers", stream(HEAD + b"Content-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n", name=b"--f")
    ),
    "no line break before the boundary": Behaviour("Linksys, Tornado apps", stream(after=b"")),
    "the boundary twice": Behaviour("Foscam G2", stream(name=b"--frame\r\n--frame")),
    "dashes after each boundary": Behaviour("Amcrest", stream(name=b"--frame--")),
    "headers right behind the boundary": Behaviour("Viseron", each(lambda p: b"--frame" + part(p)[9:])),
    "a text before the first boundary": Behaviour("RFC 2046", stream(STREAM + b"This is a multipart message.\r\n\r\n")),
    "a closing boundary": Behaviour("RFC 2046", each(part, end=b"--frame--\r\nThe end.\r\n")),
    "no first boundary, its headers in the head": Behaviour("Tasmota", first_part_in_the_head),
    "no first boundary": Behaviour("ESP32 examples until 2020", no_first_boundary),
    # a part's headers
    "no length": Behaviour("Mobotix, ffmpeg, Flask apps", stream(head=_TYPE)),
    "no length and no line break": Behaviour("own servers", stream(head=_TYPE, after=b"")),
    "no headers": Behaviour("GStreamer pipelines", stream(head=b"")),
    "no empty line before the picture": Behaviour("old firmware", each(lambda p: b"--frame\r\n" + _TYPE + p + b"\r\n")),
    "lower case, no blank": Behaviour(
        "lighttpd CGIs", each(lambda p: part(p, head=b"content-type:image/jpeg\r\ncontent-length:%d\r\n" % len(p)))
    ),
    "two blanks before the length": Behaviour(
        "Panasonic", each(lambda p: part(p, head=_TYPE + b"Content-length:  %d\r\n" % len(p)))
    ),
    "image/jpg": Behaviour("many OEMs", stream(head=b"Content-Type: image/jpg\r\n")),
    "parameters after the type": Behaviour(
        "Trendnet TV-IP302PI", stream(head=b"Content-Type: image/jpeg;size=640x480\r\n")
    ),
    "text/plain around a JPEG": Behaviour("CGI scripts", stream(head=b"Content-Type: text/plain\r\n")),
    "more and longer headers": Behaviour(
        "D-Link, Axis, mjpg-streamer",
        each(
            lambda p: part(
                p,
                head=_TYPE
                + b"Content-Length: %d\r\nX-Timestamp: 295528.317\r\nDate: 01-01-2011 03:30:45 AM IO_0_PT_003_%s\r\n"
                % (len(p), b"0" * 150),
            )
        ),
    ),
    "a header without a colon": Behaviour("OEM firmware", stream(head=_TYPE + b"no colon here\r\n")),
    "a length that is too short": Behaviour(
        "OEM firmware", each(lambda p: part(p, head=_TYPE + b"Content-Length: %d\r\n" % (len(p) - 100)))
    ),
    "a length that is too long": Behaviour(
        "Arducam", each(lambda p: part(p, head=_TYPE + b"Content-Length: %d\r\n" % (len(p) + 100)))
    ),
    "a length of 0": Behaviour("OEM firmware", stream(head=_TYPE + b"Content-Length: 0\r\n")),
    "a length that is no number": Behaviour("OEM firmware", stream(head=_TYPE + b"Content-Length: unknown\r\n")),
    "text between the pictures": Behaviour(
        "Axis with events, Reolink with sound",
        each(lambda p: part(b"speed=1", head=b"Content-Type: text/plain\r\nContent-Length: 7\r\n") + part(p)),
    ),
    # the picture
    "zeros after the picture": Behaviour(
        "ESP32, Raspberry Pi, Arducam",
        each(lambda p: part(p + bytes(61), head=_TYPE + b"Content-Length: %d\r\n" % (len(p) + 61))),
    ),
    "other data after the picture": Behaviour(
        "Dahua",
        each(
            lambda p: part(p + b"DHAV\xff\xd8\xff\x00\x12" * 9, head=_TYPE + b"Content-Length: %d\r\n" % (len(p) + 81))
        ),
    ),
    "empty lines before the picture": Behaviour(
        "old firmware", each(lambda p: b"--frame\r\n" + _TYPE + b"\r\n\r\n\r\n" + p + b"\r\n")
    ),
    "a thumbnail inside": Behaviour("cameras with EXIF", stream(head=_TYPE), alter=with_thumbnail),
    "fill bytes between segments": Behaviour(
        "ITU-T T.81, B.1.1.2", stream(head=_TYPE), alter=lambda p: p[:2] + b"\xff\xff" + p[2:]
    ),
    "markers inside a segment": Behaviour(
        "cameras with vendor data", stream(head=_TYPE), alter=with_segment(SEGMENT, b"\xff\xd9\xff\xd8\r\n")
    ),
    "PNG": Behaviour(
        "own servers",
        each(lambda p: part(p, head=b"Content-Type: image/png\r\nContent-Length: %d\r\n" % len(p))),
        alter=as_png,
    ),
    # who asks, and where
    "Basic": Behaviour("old cameras", basic, user=USER),
    "Digest with MD5": Behaviour("Axis, Hikvision, Dahua", digest("MD5"), user=USER),
    "Digest without qop": Behaviour("RFC 2069 firmware", digest("MD5", qop=False), user=USER),
    "Digest with MD5-sess": Behaviour("RFC 7616", digest("MD5", session=True), user=USER),
    "Digest with SHA-256": Behaviour("Hikvision since 2020", digest("SHA-256"), user=USER),
    "Digest beside Basic": Behaviour("Trendnet", digest("MD5", also=b'Basic realm="c"'), user=USER),
    "Digest with a nonce that is too old at first": Behaviour("Axis", stale_digest, user=USER),
    "a refusal without a challenge": Behaviour("OEM firmware", silent_basic(b"401 Unauthorized"), user=USER),
    "403 for those who say nothing": Behaviour("OEM firmware", silent_basic(b"403 Forbidden"), user=USER),
    "moved on the same host": Behaviour("cameras with a login page", moved(b"/moved/stream?x=1")),
    # what is refused by name
    "a page": Behaviour(
        "the camera's web page",
        fixed(HEAD + b"Content-Type: text/html\r\n\r\n<html>"),
        refused="'text/html', not a stream",
    ),
    "one picture": Behaviour(
        "snapshot addresses",
        lambda _, pictures: HEAD + _TYPE + b"Content-Length: %d\r\n\r\n" % len(pictures[0]) + pictures[0],
        refused="give the address of its MJPEG stream",
    ),
    "one picture without a length": Behaviour(
        "snapshot addresses",
        lambda _, pictures: HEAD + _TYPE + b"\r\n" + pictures[0],
        refused="give the address of its MJPEG stream",
    ),
    "compressed": Behaviour(
        "a proxy that compresses",
        stream(STREAM[:-2] + b"Content-Encoding: gzip\r\n\r\n"),
        refused="switch that off in camera or proxy",
    ),
    "H.264 in parts": Behaviour(
        "Amcrest's main stream",
        stream(head=b"Content-Type: video/x-h264\r\nContent-Length: 9\r\n", after=b""),
        refused="choose MJPEG in its settings",
        alter=lambda _: b"\x00\x00\x00\x01\x67\x64\x00\x1f\xac",
    ),
    "moved to another host": Behaviour(
        "a router's page",
        moved(b"http://router.example/login?k=s3cret"),
        refused="it moved to http://router.example: give that address",
    ),
    "moved in a circle": Behaviour(
        "a login page", fixed(b"HTTP/1.0 302 Found\r\nLocation: /again\r\n\r\n"), refused="again and again"
    ),
    "a user is needed": Behaviour("any camera", basic, refused="asks for a user"),
    "another password": Behaviour(
        "any camera", digest("MD5", also=b"Negotiate"), user="other", refused="check user and password"
    ),
    "another kind of login": Behaviour(
        "a domain's proxy", fixed(refusal(b"Negotiate", b"NTLM")), user=USER, refused="neither Basic nor Digest"
    ),
    "no right": Behaviour("any camera", fixed(b"HTTP/1.1 403 Forbidden\r\n\r\n"), user=USER, refused="HTTP 403"),
    "no such path": Behaviour("any camera", fixed(b"HTTP/1.1 404 Not Found\r\n\r\n"), refused="check the path"),
    "too many viewers": Behaviour(
        "cameras with few slots", fixed(b"HTTP/1.0 503 Service Unavailable\r\n\r\n"), refused="HTTP 503"
    ),
    "RTSP": Behaviour("the wrong port", fixed(b"RTSP/1.0 400 Bad Request\r\n\r\n"), refused="kind: rtsp"),
    "TLS": Behaviour("the wrong port", fixed(b"\x15\x03\x01\x00\x02\x02\x46"), refused="https://"),
    "an echo of the request": Behaviour(
        "the wrong port", lambda request, _: request, user=USER, refused="does not answer in HTTP"
    ),
    "headers without end": Behaviour(
        "broken firmware", fixed(HEAD + b"X: " + b"x" * 40_000), refused="do not end within"
    ),
    "part headers without end": Behaviour(
        "broken firmware", fixed(STREAM + b"--frame\r\n" + b"X: x\r\n" * 9_000), refused="do not end within"
    ),
    "an enormous part": Behaviour(
        "broken firmware",
        fixed(STREAM + b"--frame\r\nContent-Length: 99999999999\r\n\r\n"),
        refused="bytes comes; at most",
    ),
    "nothing": Behaviour("a dead service behind an open port", fixed(b""), refused="without an answer"),
}
