"""Keyset pages: a cursor says where one ended, and a Link header leads to the next."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache
from hashlib import blake2b
from typing import TypeVar
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

P = TypeVar("P", bound=Struct)

UNTOUCHED = "%&=+,:;@!$'()*/?"
"""What may stand in a query as it is (RFC 3986, 3.4), besides letters, digits and `_.-~`."""


def write_cursor(list_: object, position: Struct) -> str:
    """An opaque position in a list, of no use in another: `list_` is its order and its filters."""
    return seal(list_, msgspec.msgpack.encode(position))


def read_cursor(cursor: str, list_: object, type_: type[P]) -> P | None:
    """The position that a cursor holds; None where it is no cursor of this list."""
    try:
        content = urlsafe_b64decode(cursor.encode("ascii") + b"==")[8:]
        return msgspec.msgpack.decode(content, type=type_) if cursor == seal(list_, content) else None
    except (ValueError, RecursionError, msgspec.DecodeError):  # not ASCII, not base64, no position
        return None


def seal(list_: object, content: bytes) -> str:
    """Ties a position to its list. No secret is in it: a forged one shows nothing that paging hides."""
    tag = blake2b(content, digest_size=8, key=find_key(repr(list_))).digest()
    return urlsafe_b64encode(tag + content).rstrip(b"=").decode()


@lru_cache
def find_key(list_: str) -> bytes:
    """What the positions of a list are sealed with."""
    return blake2b(list_.encode()).digest()


def link_next(path: str, query_string: bytes, cursor: str) -> str:
    """`Link` to the next page (RFC 8288), relative, so that it holds behind any proxy.

    The query stays as it came, but for its cursor: to parse and write it anew takes 20 µs.
    """
    query = quote(query_string, safe=UNTOUCHED)
    kept = [part for part in query.split("&") if part and unquote(part.partition("=")[0]) != "cursor"]
    kept.append(f"cursor={cursor}")
    return f'<{path}?{"&".join(kept)}>; rel="next"'
