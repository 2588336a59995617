"""What HTTP/1.1 asks of a server: cases by RFC section and level, each sent as raw bytes.

`{key}` stands for the line of the key, and thing 1 is there. An answer is named by its status, or by several
where the RFC leaves a choice; 0 is a connection that is closed without one. `ends` says whether the connection
must be closed afterwards (True), or must be kept (False).
"""

from collections.abc import Iterator
from typing import NamedTuple

MUST, SHOULD, MAY = "MUST", "SHOULD", "MAY"


class Case(NamedTuple):
    """One request, or the beginning of one, and what is answered."""

    section: str
    level: str
    what: str
    raw: str
    statuses: tuple[int, ...]
    ends: bool | None = None


WHOLE = '{"name": "thing 2"}'
"""A body that is a conflict each time: the answer is the same however often it is sent."""


def get(
    *lines: str,
    target: str = "/things/1",
    method: str = "GET",
    version: str = "1.1",
    host: str = "Host: h\r\n",
) -> str:
    """A request that has a key."""
    return (
        f"{method} {target} HTTP/{version}\r\n{host}{{key}}\r\n"
        + "".join(f"{line}\r\n" for line in lines)
        + "\r\n"
    )


def post(*lines: str, body: str = WHOLE, length: bool = True) -> str:
    """A request with a body."""
    size = [f"Content-Length: {len(body)}"] if length else []
    return get("Content-Type: application/json", *size, *lines, target="/things", method="POST") + body


def chunked(body: str, *lines: str) -> str:
    """A request whose body comes in chunks."""
    return post("Transfer-Encoding: chunked", *lines, body=body, length=False)


GOOD = '9\r\n{"name": \r\na\r\n"thing 2"}\r\n0\r\n\r\n'
"""A body in two chunks."""


def request_lines() -> Iterator[Case]:
    """RFC 9112, 2 and 3."""
    line, plain = "9112 3", "Host: h\r\n{key}\r\n\r\n"
    yield Case(line, MUST, "plain", get(), (200,), False)
    yield Case("9112 2.2", SHOULD, "an empty line before", "\r\n" + get(), (200,), False)
    yield Case("9112 2.2", SHOULD, "two empty lines before", "\r\n\r\n" + get(), (200,), False)
    yield Case("9112 2.2", MUST, "a blank before", " " + get(), (400,), True)
    for what, start in {
        "no version": "GET /things/1",
        "no target": "GET HTTP/1.1",
        "two blanks before the target": "GET  /things/1 HTTP/1.1",
        "two blanks before the version": "GET /things/1  HTTP/1.1",
        "a tab for a blank": "GET\t/things/1 HTTP/1.1",
        "something behind the version": "GET /things/1 HTTP/1.1 x",
        "a blank behind the version": "GET /things/1 HTTP/1.1 ",
        "a small http": "GET /things/1 http/1.1",
        "another protocol": "GET /things/1 ICAP/1.0",
        "no protocol": "GET /things/1 /1.1",
        "a version of one number": "GET /things/1 HTTP/1",
        "a version of two digits": "GET /things/1 HTTP/1.10",
        "a version with a comma": "GET /things/1 HTTP/1,1",
        "a version of letters": "GET /things/1 HTTP/a.b",
        "no slash in the version": "GET /things/1 HTTP1.1",
        "a blank in the target": "GET /things/1 2 HTTP/1.1",
        "no slash before the target": "GET things/1 HTTP/1.1",
        "a method with a colon": "G:T /things/1 HTTP/1.1",
        "a method in brackets": "(GET) /things/1 HTTP/1.1",
        "no method": " /things/1 HTTP/1.1",
    }.items():
        yield Case(line, MUST, what, f"{start}\r\n{plain}", (400,), True)
    yield Case("9112 2.2", MAY, "a line feed alone", f"GET /things/1 HTTP/1.1\n{plain}", (200, 400))
    for code in (0, 1, 9, 11, 12, 27, 31, 127):
        yield Case(
            "9112 3.2", MUST, f"U+{code:04X} in the target", get(target=f"/things/{chr(code)}1"), (400,), True
        )
    yield Case("9112 3.2", MUST, "a fragment", get(target="/things/1#a"), (400,), True)
    yield Case("9112 3.2", MUST, "a fragment behind a query", get(target="/things?limit=1#a"), (400,), True)
    yield Case("9112 3.2.2", MUST, "an absolute target", get(target="http://h/things/1"), (200,), False)
    yield Case(
        "9112 3.2.2", MUST, "an absolute target of https", get(target="https://h/things/1"), (200,), False
    )
    yield Case("9112 3.2.4", SHOULD, "OPTIONS *", get(target="*", method="OPTIONS"), (204,), False)
    yield Case("9112 3.2.4", MUST, "GET *", get(target="*"), (400, 404))
    for path, status in {"/things/%31": 200, "/%74hings/1": 200, "/things%2F1": 404, "/things%2f1": 404, "/things/1%2f": 404,
                         "/things/1/": 404, "//things/1": 404, "/things/../things/1": 404, "/things/.": 404, "/%": 404,
                         "/things/%zz": 404, "/things/1%00": 404, "/things/1;a=b": 404, "/things/1%0A": 404}.items():  # fmt: skip
        yield Case("3986 2.2", MUST, f"the path {path}", get(target=path), (status,), False)
    yield Case(
        "9110 4.1",
        SHOULD,
        "8,000 bytes of a target",
        get(target="/things/1?" + "a" * 7990),
        (200, 422),
        False,
    )


def versions() -> Iterator[Case]:
    """RFC 9110, 2.5 and RFC 9112, 9.3."""
    for version in ("1.2", "1.3", "1.9"):
        yield Case("9110 2.5", SHOULD, f"HTTP/{version} is read as 1.1", get(version=version), (200,), False)
    for version in ("2.0", "3.0", "0.9", "9.9"):
        yield Case("9110 15.6.6", SHOULD, f"HTTP/{version}", get(version=version), (505,), True)
    yield Case("9112 9.3", MUST, "1.0 ends", get(version="1.0"), (200,), True)
    yield Case(
        "9112 9.3",
        SHOULD,
        "1.0 is kept where it asks for it",
        get("Connection: keep-alive", version="1.0"),
        (200,),
        False,
    )
    yield Case(
        "9112 9.3", SHOULD, "1.0 in capitals", get("Connection: Keep-Alive", version="1.0"), (200,), False
    )
    yield Case("9112 3.2", MUST, "1.0 without a Host", get(version="1.0", host=""), (200,), True)
    yield Case(
        "9112 6.1", MUST, "1.0 with chunks", chunked(GOOD).replace("HTTP/1.1", "HTTP/1.0"), (400,), True
    )
    yield Case(
        "9110 10.1.1",
        MUST,
        "1.0 that expects a 100",
        post("Expect: 100-continue").replace("HTTP/1.1", "HTTP/1.0"),
        (409,),
        True,
    )
    for line in ("close", "Close", "CLOSE", "close, x", "x, close", "keep-alive, close"):
        yield Case("9112 9.3", MUST, f"Connection: {line}", get(f"Connection: {line}"), (200,), True)
    for line in ("keep-alive", "x", "", "x-a, x-b", ","):
        yield Case("9112 9.3", MUST, f"Connection: {line}", get(f"Connection: {line}"), (200,), False)
    yield Case(
        "9112 9.6",
        MUST,
        "what follows a close is not answered",
        get("Connection: close") + get(),
        (200,),
        True,
    )


def hosts() -> Iterator[Case]:
    """RFC 9112, 3.2 and RFC 9110, 7.2."""
    for value in (
        "h",
        "h.example",
        "h:80",
        "h:",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]",
        "[::1]:80",
        "a_b",
        "a-b.c",
        "a%20b",
        "H",
    ):
        yield Case("9110 7.2", MUST, f"Host: {value}", get(host=f"Host: {value}\r\n"), (200,), False)
    yield Case("9112 3.2", MUST, "no Host", get(host=""), (400,), True)
    for value in ("", " ", "user@h", "h/path", "h, h", "h,h", "h h", "h?a", "h#a", "http://h", "h:a", "h:80:80", "[::1", "::1",
                  "h\\a", "h\t1", "<h>", "\"h\"", "h@", "h|a", "[x]", "h:-1", "h^", "\xe9"):  # fmt: skip
        yield Case("9112 3.2", MUST, f"Host: {value!r}", get(host=f"Host: {value}\r\n"), (400,), True)
    yield Case("9112 3.2", MUST, "two Hosts", get("Host: h"), (400,), True)
    yield Case("9112 3.2", MUST, "two other Hosts", get("Host: i"), (400,), True)
    yield Case("9112 3.2", MUST, "two Hosts of 1.0", get("Host: h", version="1.0"), (400,), True)


def fields() -> Iterator[Case]:
    """RFC 9112, 5 and RFC 9110, 5."""
    for mark in "!#$%&'*+-.^_`|~09azAZ":
        yield Case("9110 5.1", MUST, f"{mark} in a name", get(f"x{mark}: 1"), (200,), False)
    for mark in '()<>@,;\\"/[]?={} \t\x00\x7f\xe9':
        yield Case("9112 5.1", MUST, f"{mark!r} in a name", get(f"x{mark}y: 1"), (400,), True)
    for what, line in {"a blank before the colon": "x : 1", "a tab before the colon": "x\t: 1", "no colon": "x", "no name": ": 1",
                       "a folded line": "x: 1\r\n 2", "a line folded by a tab": "x: 1\r\n\t2", "a blank before the name": " x: 1"}.items():  # fmt: skip
        yield Case("9112 5.1", MUST, what, get(line), (400,), True)
    yield Case(
        "9112 5.2",
        MUST,
        "a blank line before the first field",
        "GET /things/1 HTTP/1.1\r\n Host: h\r\n{key}\r\n\r\n",
        (400,),
        True,
    )
    for code in (0, 1, 8, 11, 12, 27, 31, 127):
        yield Case("9110 5.5", MUST, f"U+{code:04X} in a value", get(f"x: a{chr(code)}b"), (400,), True)
    yield Case("9112 2.2", MUST, "a carriage return alone in a value", get("x: a\rb"), (400,), True)
    yield Case("9112 2.2", MUST, "a line feed alone in a value", get("x: a\nb"), (400,), True)
    for what, line in {"no value": "x:", "blanks for a value": "x:   ", "a tab in a value": "x: a\tb", "no blank": "x:1", "blanks behind": "x: 1  \t ",
                       "8 bits": "x: \xe9\xff", "quotes": 'x: "a, b"', "a long value": "x: " + "a" * 8000}.items():  # fmt: skip
        yield Case("9110 5.5", MUST, what, get(line), (200,), False)
    yield Case("9110 5.3", MUST, "the same field twice", get("x: 1", "x: 2"), (200,), False)
    yield Case("6585 5", SHOULD, "a hundred fields", get(*["x: 1"] * 98), (200,), False)
    yield Case("6585 5", SHOULD, "a field more", get(*["x: 1"] * 99), (431,), True)
    yield Case("6585 5", SHOULD, "a head that is too large", get("x: " + "a" * 70_000), (431,), True)


def lengths() -> Iterator[Case]:
    """RFC 9112, 6."""
    for value in (
        "-1",
        "+13",
        "0x0d",
        "13a",
        "1 3",
        "a",
        "",
        "13,14",
        "13, 13, 14",
        "1e1",
        "13.0",
        '"13"',
        "99999999999999999999",
        "\xb2",
    ):
        raw = post(f"Content-Length: {value}", length=False)
        yield Case("9112 6.3", MUST, f"Content-Length: {value!r}", raw, (400,), True)
    yield Case("9112 6.3", MUST, "two that differ", post("Content-Length: 20"), (400,), True)
    yield Case("9112 6.3", MAY, "two that are the same", post("Content-Length: 19"), (409, 400))
    yield Case(
        "9112 6.3", MAY, "a list of the same", post("Content-Length: 19, 19", length=False), (409, 400)
    )
    yield Case("9110 8.6", MUST, "zeros before it", post("Content-Length: 0019", length=False), (409,), False)
    yield Case("9112 6.3", MUST, "with chunks", chunked(GOOD, "Content-Length: 19"), (400,), True)
    yield Case("9112 6.3", MUST, "no length is no body", post(body="", length=False), (400, 422), False)
    yield Case("9112 6.3", MUST, "a body of a GET", get("Content-Length: 3") + "abc", (200,), False)
    yield Case(
        "9110 15.5.14",
        SHOULD,
        "a body that is too large",
        post("Content-Length: 99999999", body="", length=False),
        (413,),
        True,
    )


def codings() -> Iterator[Case]:
    """RFC 9112, 6.1 and 7."""
    for value in ("chunked", "Chunked", "CHUNKED"):
        raw = post(f"Transfer-Encoding: {value}", body=GOOD, length=False)
        yield Case("9112 7", MUST, f"Transfer-Encoding: {value}", raw, (409,), False)
    for value in (
        "gzip",
        "gzip, chunked",
        "deflate, chunked",
        "identity",
        "x, chunked",
        "chunked, gzip",
        "chunked, chunked",
    ):
        raw = post(f"Transfer-Encoding: {value}", body=GOOD, length=False)
        yield Case("9112 6.1", SHOULD, f"Transfer-Encoding: {value}", raw, (400, 501), True)
    for value in ("xchunked", "chunked;q=1", '"chunked"', "chunked x", ""):
        raw = post(f"Transfer-Encoding: {value}", body=GOOD, length=False)
        yield Case("9112 6.1", MUST, f"Transfer-Encoding: {value!r}", raw, (400, 501), True)
    yield Case(
        "9112 6.1", MUST, "chunked twice", chunked(GOOD, "Transfer-Encoding: chunked"), (400, 501), True
    )
    for what, body in {"a small digit": "9\r\n{\"name\": \r\na\r\n\"thing 2\"}", "a capital digit": "9\r\n{\"name\": \r\nA\r\n\"thing 2\"}", "zeros before a size": "00013\r\n" + WHOLE,
                       "an extension": "13;a=b\r\n" + WHOLE, "a quoted extension": "13;a=\"b;c\"\r\n" + WHOLE,
                       "an extension without a value": "13;a\r\n" + WHOLE, "two extensions": "13;a;b=c\r\n" + WHOLE}.items():  # fmt: skip
        yield Case("9112 7.1", MUST, what, chunked(body + "\r\n0\r\n\r\n"), (409,), False)
    for what, body in {"no size": "\r\n" + WHOLE, "a size of no digits": "x\r\n" + WHOLE, "a sign": "+13\r\n" + WHOLE, "a minus": "-13\r\n" + WHOLE,
                       "0x": "0x13\r\n" + WHOLE, "a blank before": " 13\r\n" + WHOLE, "a size that is too large": "f" * 17 + "\r\n" + WHOLE,
                       "a size that is too small": "12\r\n" + WHOLE, "a line feed for an end": "13\n" + WHOLE,
                       "a size with a comma": "13,\r\n" + WHOLE, "U+0000 in an extension": "13;a\x00b\r\n" + WHOLE}.items():  # fmt: skip
        yield Case("9112 7.1", MUST, what, chunked(body + "\r\n0\r\n\r\n"), (400,), True)
    yield Case(
        "9112 7.1.2", MUST, "trailers", chunked(f"13\r\n{WHOLE}\r\n0\r\nX: 1\r\nY: 2\r\n\r\n"), (409,), False
    )
    for line in (
        "Content-Length: 3",
        "Transfer-Encoding: gzip",
        "Host: i",
        "Authorization: Bearer x",
        "Connection: close",
    ):
        raw = chunked(f"13\r\n{WHOLE}\r\n0\r\n{line}\r\n\r\n")
        yield Case("9110 6.5.1", MUST, f"a trailer {line}", raw, (409,), False)
    yield Case(
        "9112 7.1.2",
        MUST,
        "a trailer that is none",
        chunked(f"13\r\n{WHOLE}\r\n0\r\nno colon\r\n\r\n"),
        (400,),
        True,
    )
    for value, status in {
        "gzip": 415,
        "br": 415,
        "deflate": 415,
        "x": 415,
        "gzip, br": 415,
        "identity": 409,
    }.items():
        yield Case(
            "9110 8.4",
            SHOULD,
            f"Content-Encoding: {value}",
            post(f"Content-Encoding: {value}"),
            (status,),
            False,
        )


def methods() -> Iterator[Case]:
    """RFC 9110, 9."""
    for method in (
        "FOO",
        "get",
        "Get",
        "PROPFIND",
        "MKCOL",
        "PURGE",
        "LINK",
        "G",
        "M-SEARCH",
        "QUERY",
        "A" * 50,
    ):
        yield Case("9110 9.1", SHOULD, f"{method} of a path", get(method=method), (501,))
    for method in ("PUT", "TRACE", "POST"):
        yield Case("9110 9.1", SHOULD, f"{method} of a thing", get(method=method), (405,), False)
    yield Case("9110 9.3.7", MUST, "OPTIONS of a thing", get(method="OPTIONS"), (204,), False)
    yield Case(
        "9110 9.3.7", MUST, "OPTIONS of things", get(method="OPTIONS", target="/things"), (204,), False
    )
    yield Case(
        "9110 9.3.7", SHOULD, "OPTIONS of nothing", get(method="OPTIONS", target="/nothing"), (404,), False
    )
    yield Case("9110 9.3.2", MUST, "HEAD of a thing", get(method="HEAD"), (200,), False)
    yield Case("9110 9.3.2", MUST, "HEAD of nothing", get(method="HEAD", target="/nothing"), (404,), False)
    yield Case(
        "9110 10.1.1", MUST, "an expectation without a body", get("Expect: 100-continue"), (200,), False
    )
    yield Case(
        "9110 7.8",
        MUST,
        "an upgrade that is not known",
        get("Upgrade: x", "Connection: upgrade"),
        (200,),
        False,
    )
    yield Case(
        "9110 7.8",
        MUST,
        "an upgrade to h2c",
        get("Upgrade: h2c", "Connection: upgrade, HTTP2-Settings", "HTTP2-Settings: a"),
        (200,),
        False,
    )


def conditions() -> Iterator[Case]:
    """RFC 9110, 12 and 13."""
    for value, status in {'"1"': 304, 'W/"1"': 304, "*": 304, '"2"': 200, '"2", "1"': 304, '"2",,"1"': 304, ', "1"': 304, '"1",': 304,
                          '"2" , "1"': 304, "1": 200, '"1': 200, '""': 200, "": 200, '"2" "1"': 200}.items():  # fmt: skip
        yield Case(
            "9110 13.1.2", MUST, f"If-None-Match: {value}", get(f"If-None-Match: {value}"), (status,), False
        )
    yield Case(
        "9110 13.1.2",
        MUST,
        "If-None-Match on two lines",
        get('If-None-Match: "2"', 'If-None-Match: "1"'),
        (304,),
        False,
    )
    for value, status in {
        '"1"': 200,
        "*": 200,
        '"2"': 412,
        'W/"1"': 412,
        '"2", "1"': 200,
        '"2",,"1"': 200,
    }.items():
        yield Case(
            "9110 13.1.1", MUST, f"If-Match: {value} of a GET", get(f"If-Match: {value}"), (status,), False
        )
    both = get('If-Match: "1"', "If-None-Match: *")
    yield Case("9110 13.2.2", MUST, "If-Match and If-None-Match: * of a GET", both, (304,), False)
    change = "PATCH /things/1 HTTP/1.1\r\nHost: h\r\n{{key}}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n{}\r\n\r\n{{}}"
    for line, status in {'If-Match: "7"': 412, 'If-Match: W/"1"': 412, "If-None-Match: *": 412}.items():
        raw = change.replace("{}", line, 1).replace("{{", "{").replace("}}", "}")
        yield Case("9110 13.1", MUST, f"{line} of a change", raw, (status,), False)
    for value in (
        "",
        "*/*",
        "application/json",
        "application/*",
        "text/html, */*;q=0.1",
        "application/json, text/plain, */*",
        ",",
        "nonsense",
    ):
        yield Case("9110 12.5.1", MAY, f"Accept: {value}", get(f"Accept: {value}"), (200,), False)


CASES = [
    case
    for family in (request_lines, versions, hosts, fields, lengths, codings, methods, conditions)
    for case in family()
]
