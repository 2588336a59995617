"""What the headers of a request ask for: versions, preferences, retries, its id."""

import itertools
import re
import secrets
from hashlib import blake2b

import msgspec
from msgspec import Struct
from starlette.requests import Request

from svc.errors import Problem


def etag(version: int) -> str:
    """A strong entity tag: every change of a user makes a new version (RFC 9110, 8.8.3)."""
    return f'"{version}"'


ETAGS = re.compile(r'(?:W/)?"[^"]*"')


def matches(header: str, version: int) -> bool:
    """Whether If-None-Match names this version; the comparison is the weak one (RFC 9110, 13.1.2)."""
    return header.strip() == "*" or etag(version) in (tag.removeprefix("W/") for tag in ETAGS.findall(header))


def read_versions(request: Request) -> list[int] | None:
    """The versions that If-Match lets pass, None for any; weak tags never match (RFC 9110, 13.1.1)."""
    header = request.headers.get("if-match")
    if header is None or header.strip() == "*":
        return None
    return [int(tag[1:-1]) for tag in ETAGS.findall(header) if re.fullmatch(r'"[1-9][0-9]{0,17}"', tag)]


def read_preference(request: Request) -> str | None:
    """`exact` or `estimated` out of `Prefer: count=…` (RFC 7240); anything else is not for us."""
    preferences = request.headers.get("prefer", "").replace(";", ",").split(",")
    for preference in preferences:
        name, _, value = preference.strip().lower().partition("=")
        if name == "count" and value.strip('"') in ("exact", "estimated"):
            return value.strip('"')
    return None


class Retry(Struct, frozen=True):
    """What tells a retry: hashes of the client's Idempotency-Key and of the body."""

    key_hash: bytes
    fingerprint: bytes


def read_retry(request: Request, parts: list[str]) -> Retry | None:
    """The Idempotency-Key of this API key, and what the body's parts hash to with it; None without one.

    draft-ietf-httpapi-idempotency-key-header; the quotes that it asks for may be left out.
    """
    key = request.headers.get("idempotency-key", "").strip('"')
    if len(key) > 255:
        raise Problem(400, "An Idempotency-Key may have 255 characters", code="malformed")
    own = blake2b(f"{request.scope.get('key_id')} {key}".encode()).digest()
    fingerprint = blake2b(msgspec.json.encode(parts), key=own, digest_size=32).digest()
    return Retry(blake2b(own, digest_size=32).digest(), fingerprint) if key else None


REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:/+=-]{1,128}")
PROCESS = secrets.token_hex(8)
COUNTER = itertools.count(1)


def take_request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The client's X-Request-Id where it is a plain one, or one of our own: 64 random bits and a count."""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value.decode("ascii")
    return f"{PROCESS}-{next(COUNTER):x}"
