"""What the headers of a request ask for: versions, preferences, retries, its id."""

import itertools
import re
import secrets
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec
from msgspec import Struct
from starlette.requests import Request

from svc.config import Networks
from svc.http.problems import Problem


def read_header(request: Request, name: bytes) -> str:
    """Return the first line of a header, whose name is in lower case; nothing where there is none.

    Starlette's `Headers` take 2 µs more.
    """
    for key, value in request.scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""


def parse_media_type(value: str) -> str:
    """Return the type that a Content-Type names, without its parameters."""
    return value.partition(";")[0].strip().lower()


def format_etag(version: int) -> str:
    """Return a strong entity tag: every change makes a new version (RFC 9110, 8.8.3)."""
    return f'"{version}"'


ETAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
ETAGS = re.compile(rf"[\s,]*{ETAG}(?:\s*,[\s,]*{ETAG})*[\s,]*")
"""A list of entity tags; an element may be empty (RFC 9110, 5.6.1)."""


def read_etags(request: Request, name: str) -> list[str] | None:
    """Return the entity tags of all lines of a header: `["*"]` for any, `[]` for what is no list of tags."""
    wanted = name.encode()
    lines = [value.decode("latin-1") for key, value in request.scope["headers"] if key == wanted]
    header = ", ".join(lines).strip()
    if not lines or header == "*":
        return ["*"] if lines else None
    return re.findall(ETAG, header) if ETAGS.fullmatch(header) else []


def matches_if_none_match(request: Request, version: int) -> bool:
    """Return whether If-None-Match names this version; the comparison is the weak one (RFC 9110, 13.1.2)."""
    if not read_header(request, b"if-none-match"):  # most have none: a third of the time
        return False
    tags = read_etags(request, "if-none-match") or []
    return "*" in tags or format_etag(version) in [tag.removeprefix("W/") for tag in tags]


def matches_if_match(request: Request, version: int) -> bool:
    """Return whether If-Match lets this version pass; weak tags never match (RFC 9110, 13.1.1)."""
    tags = read_etags(request, "if-match")
    return tags is None or "*" in tags or format_etag(version) in tags


def read_if_match(request: Request) -> list[int] | None:
    """Return the versions that a change may be of, None for any; weak tags never match (RFC 9110, 13.1.1).

    `If-None-Match: *` lets none pass (13.1.2).
    """
    if read_etags(request, "if-none-match") == ["*"]:
        return []
    tags = read_etags(request, "if-match")
    if tags is None or "*" in tags:
        return None
    return [int(tag[1:-1]) for tag in tags if re.fullmatch(r'"[1-9][0-9]{0,17}"', tag)]


QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")

PREFERENCE = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
"""One preference of a list. A quote that nothing closes goes to the end: it is looked for once, not again."""


def read_preference(request: Request) -> str | None:
    """Return `exact` or `estimated` out of `Prefer: count=…` (RFC 7240); anything else is not for us."""
    for preference in PREFERENCE.findall(", ".join(request.headers.getlist("prefer"))):
        name, _, value = preference.partition(";")[0].partition("=")
        wanted = value.strip().strip('"').lower()
        if name.strip().lower() == "count" and wanted in ("exact", "estimated"):
            return str(wanted)
    return None


def choose_media_type(request: Request, offered: Sequence[str]) -> str | None:
    """Return what Accept likes best (RFC 9110, 12.5.1), the first of equals; None where it allows none."""
    qualities: dict[str, float] = {}
    accepted = ",".join(request.headers.getlist("accept")).strip(", \t") or "*/*"  # empty, it is anything
    for part in accepted.lower().split(","):
        media_type, *parameters = [word.strip() for word in part.split(";")]
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        qualities[media_type] = float(quality) if QUALITY.fullmatch(quality) else 0

    def rate(media_type: str) -> float:
        ranges = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
        return next((qualities[range_] for range_ in ranges if range_ in qualities), 0)

    best = max(offered, key=rate)
    return best if rate(best) else None


class IdempotencyKey(Struct, frozen=True):
    """What tells a retry: hashes of the client's Idempotency-Key and of the body, but for its password."""

    key_hash: bytes
    body_hash: bytes


def read_idempotency_key(request: Request, body: list[object], owner: object) -> IdempotencyKey | None:
    """Return the Idempotency-Key, one for each owner, and what the body hashes to; None without a key.

    draft-ietf-httpapi-idempotency-key-header; the quotes that it asks for may be left out.
    """
    lines = request.headers.getlist("idempotency-key")
    if len(lines) > 1:
        raise Problem(400, "Expected one Idempotency-Key", code="malformed")
    key = "".join(lines).strip().strip('"')
    if not key:
        return None
    if len(key) > 255:
        raise Problem(400, "An Idempotency-Key may have 255 characters", code="malformed")
    own = f"{owner} {key}".encode()
    content = msgspec.json.encode(body, order="deterministic")
    return IdempotencyKey(blake2b(own, digest_size=32).digest(), blake2b(content, digest_size=32).digest())


def parse_bearer(value: bytes) -> bytes | None:
    """Return the token in an Authorization header (RFC 6750, 2.1); None where the scheme is another one."""
    scheme, _, token = value.partition(b" ")
    return token.strip() or None if scheme.lower() == b"bearer" else None


NO_PROXIES = Networks()

MOST_HOPS = 16
"""Proxies one behind the other. Of more, a client has made them up, and each costs 5 µs."""


def find_client(
    peer: tuple[str, int] | None, forwarded: Iterable[bytes], proxies: Networks
) -> tuple[str, int] | None:
    """Return the client's address, given the lines of X-Forwarded-For: the last one that is no proxy's.

    Each proxy adds who it was asked by at the end; what stands further to the left a client may have made up.
    The port of a client behind a proxy is not known: 0.
    """
    if not proxies or peer is None:
        return peer
    client = parse_address(peer[0])
    hops = b",".join(forwarded).decode("latin-1").rsplit(",", MOST_HOPS)
    found = peer
    while client and hops and any(client in network for network in proxies):
        client = parse_address(hops.pop())
        found = (str(client), 0) if client else found
    return found


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an IP address, which may have a port behind it; one of IPv4 in an IPv6 one as the former."""
    text = text.strip()
    host = re.fullmatch(r"\[(.+)\](?::[0-9]+)?|([0-9.]+):[0-9]+", text)
    try:
        address = ip_address(host[1] or host[2] if host else text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:/+=-]{1,128}")
PROCESS = secrets.token_hex(8).encode()
COUNTER = itertools.count(1)


def parse_request_id(value: bytes) -> bytes | None:
    """Return a client's X-Request-Id where it is a plain one."""
    return value if REQUEST_ID.fullmatch(value) else None


def take_request_id(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the client's X-Request-Id where it is a plain one, or one of our own."""
    for name, value in headers:
        if name == b"x-request-id" and (request_id := parse_request_id(value)):
            return request_id
    return make_request_id()


def make_request_id() -> bytes:
    """Return an id of our own: 64 random bits and a count."""
    return b"%b-%x" % (PROCESS, next(COUNTER))
