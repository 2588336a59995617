"""What a head must be, beyond its grammar: which host it is for, in which version, in which coding."""

import re
from collections.abc import Sequence
from urllib.parse import unquote

from svc.http.problems import Problem

METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT".split())
"""Those of RFC 9110 and 5789. A path allows some of these, with a 405 for the others; any other is a 501."""

HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
"""A host and its port (RFC 9110, 7.2), less commas: a list of hosts would look like a name of that kind."""

REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) [^\x00-\x20\x7f]+ HTTP/([0-9])\.([0-9])\r?\n")
BEGINNING = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: [^\x00-\x1f\x7f]*)?\r?\Z")
OPTIONS_ALL = b"/*"
"""Where `OPTIONS *` leads: it is of the service as a whole (RFC 9110, 9.3.7)."""

Headers = Sequence[tuple[bytes, bytes]]


def malformed(detail: str) -> Problem:
    """Make the refusal of what breaks the rules of HTTP."""
    return Problem(400, detail, code="malformed")


def not_implemented(what: str) -> Problem:
    """Make the refusal of a method or a coding that is not known here (RFC 9110, 15.6.2)."""
    return Problem(501, what, code="not-implemented")


def check_head(url: bytes, version: str, headers: Headers, hosts: frozenset[bytes]) -> None:
    """Check what the parser lets pass. Raises Problem: 400, 421, 501, 505."""
    if not version.startswith("1."):
        raise Problem(505, "Only HTTP/1.1 and HTTP/1.0")
    if b"#" in url:
        raise malformed("A fragment has no place in a request (RFC 9112, 3.2)")
    check_host([value for name, value in headers if name == b"host"], version, hosts)
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and version == "1.0":
        raise malformed("HTTP/1.0 has no Transfer-Encoding (RFC 9112, 6.1)")
    if codings and codings != [b"chunked"]:
        raise not_implemented("The only transfer coding is `chunked`, once")


def check_host(values: Sequence[bytes], version: str, hosts: frozenset[bytes]) -> None:
    """Check the lines of Host. Raises Problem: 400 for none, several or a bad one, 421 for another host."""
    if not values and version == "1.0":
        return
    if len(values) != 1 or not HOST.fullmatch(values[0]):
        raise malformed("Expected one Host, a name or an address with or without a port (RFC 9112, 3.2)")
    if not is_ours(values[0], hosts):
        raise Problem(421, "This host is served elsewhere")


def is_ours(host: bytes, hosts: frozenset[bytes]) -> bool:
    """Return whether a host is one that is served, whatever the port; any is where none is named."""
    return not hosts or re.sub(rb":[0-9]*$", b"", host.lower()) in hosts


def explain(start: bytes, headers: Headers) -> Problem:
    """Return why the parser stopped, given how the request begins."""
    line = REQUEST_LINE.match(start)
    if line and line[2] != b"1":
        return Problem(505, "Only HTTP/1.1 and HTTP/1.0")
    if line and line[1].decode() not in METHODS:
        return not_implemented("This method is not known here")
    if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in headers or ()):
        return not_implemented("The only transfer coding is `chunked`, once")
    return malformed("This is not HTTP/1.1")


def is_begun(start: bytes) -> bool:
    """Return whether a request line comes in that is not whole: only then does what follows decide."""
    return b"\n" not in start and BEGINNING.match(start) is not None


def read_as_1_1(start: bytes) -> bytes:
    """Return the beginning of a head, one of HTTP/1.2 or later as one of 1.1 (RFC 9110, 2.5).

    Raises Problem 400 for what is no request line: the parser would let some pass.
    """
    line = REQUEST_LINE.match(start)
    if line is None:
        raise malformed("This is not HTTP/1.1")
    if line[2] != b"1" or line[3] in b"01":
        return start
    return start[: line.start(3)] + b"1" + start[line.end(3) :]


def measure_body(headers: Headers) -> tuple[bool, int]:
    """Return whether a body comes in chunks, and the bytes that are announced otherwise."""
    chunked, length = False, 0
    for name, value in headers:
        if name == b"transfer-encoding":
            chunked = True
        elif name == b"content-length":
            length = int(value)
    return chunked, length


def unquote_path(raw: bytes) -> str:
    """Return a path with what is escaped in it; but for a slash: it would get past the rule of a proxy."""
    return unquote(re.sub("%2(?=[Ff])", "%252", raw.decode()))
