"""What comes in: bodies, queries and ids, checked; or the Problem that names every field that fails."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, quote

import msgspec
from msgspec import Raw, Struct
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request

from svc.http.headers import parse_media_type, read_header
from svc.http.problems import FieldError, Problem, unavailable
from svc.http.validation import Failure, Invalid, find_failures, parse_hook, split_message, validate

S = TypeVar("S", bound=Struct)
T = TypeVar("T")

JSON_TYPES = ("application/json",)
MERGE_PATCH_TYPES = ("application/merge-patch+json", "application/json")
PARSED_AT_ONCE = 4096
"""Bytes of a body that are parsed in the event loop: half a millisecond at most."""

PARSER = ThreadPoolExecutor(1, thread_name_prefix="parser")
"""Parses larger bodies: a thousand long addresses take a second, in which the loop goes on."""

IN_FRAGMENTS = "/?:@!$&'()*+,;="
"""What may stand in a fragment as it is (RFC 3986, 3.5), besides letters, digits and `_.-~`."""

BOM = b"\xef\xbb\xbf"
"""U+FEFF in front of a body, which is no JSON but may be passed over (RFC 8259, 8.1)."""

MAX_PARAMETERS = 100
MAX_ERRORS = 100
"""Bounds of what a query may have and of what a problem lists."""


async def read_body(request: Request, type_: type[S], media_types: Sequence[str] = JSON_TYPES) -> S:
    """Return the body as a struct.

    Raises Problem: 415, 413, 400 for what is not JSON, 422 for what does not fit.
    """
    check_media_type(request, media_types)
    body = (await receive_body(request, request.state["max_body"])).removeprefix(BOM)
    if len(body) <= PARSED_AT_ONCE:
        return parse_body(body, type_)
    if request.state["load"].is_full:
        raise unavailable("Too much comes in at once", "overload")
    return await parse_aside(parse_body, body, type_)


async def parse_aside(parse: Callable[..., T], *given: object) -> T:
    """Run what would hold up the event loop in a thread: one at a time, so the loop has half of a core."""
    return await asyncio.get_running_loop().run_in_executor(PARSER, parse, *given)


def check_media_type(request: Request, media_types: Sequence[str]) -> None:
    """Check it. Raises Problem 415 where the body is of another type, or in a coding (RFC 9110, 8.4)."""
    if read_header(request, b"content-encoding").strip().lower() not in ("", "identity"):
        raise Problem(415, "No coding of a body is decoded", headers={"Accept-Encoding": "identity"})
    if parse_media_type(read_header(request, b"content-type")) not in media_types:
        accept = "Accept-Patch" if request.method == "PATCH" else "Accept-Post"
        raise Problem(415, f"Expected {media_types[0]}", headers={accept: ", ".join(media_types)})


def parse_body(body: bytes, type_: type[S], *, in_full: bool = True) -> S:
    """Return JSON as a struct. Raises Problem: 400 for what is not JSON, 422 for what does not fit.

    `in_full` the problem names all fields that fail, which takes another look at each.
    """
    try:
        try:
            return cast("S", decoder(type_).decode(body))
        except msgspec.ValidationError as error:
            failures = find_body_failures(type_, body) if in_full else []
            raise invalid_body(failures or [split_message(error)]) from None
    except RecursionError:
        raise Problem(400, "Expected JSON of fewer levels", code="malformed") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        wide = b"\0" in body[:2] or body[:2] in (b"\xff\xfe", b"\xfe\xff")
        found = ", and this is UTF-16 or UTF-32" if wide else ""
        raise Problem(400, f"Expected JSON in UTF-8{found}", code="malformed") from None


def parse_plain_body(body: bytes, type_: type[S]) -> S | None:
    """Return JSON as a struct, or None: `parse_body` says what is wrong with it."""
    try:
        return cast("S", decoder(type_).decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


async def receive_body(request: Request, limit: int) -> bytes:
    """Return the whole body, not one chunk more than `limit` bytes of it. Raises Problem 413."""
    too_large = Problem(413, f"A body may have {limit} bytes", headers={"Connection": "close"})
    announced = read_header(request, b"content-length") or "0"
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
        raise too_large
    body, more = bytearray(), True
    while more:  # `request.stream()` does the same, and takes 2 µs more
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise too_large
    return bytes(body)


@cache
def decoder(type_: type[Struct]) -> msgspec.json.Decoder[Struct]:
    """Return one decoder a struct: building it costs more than using it."""
    return msgspec.json.Decoder(type_, dec_hook=parse_hook)


def find_body_failures(type_: type[Struct], body: bytes) -> list[Failure]:
    """Return all fields that fail; none where the body is no object. Raises what decoding raises."""

    def convert(value: Raw, field: Any) -> object:
        return msgspec.json.decode(value, type=field, dec_hook=parse_hook)

    with suppress(msgspec.ValidationError):  # a number that no type holds; what is not JSON comes first
        msgspec.json.decode(body)
    try:
        values = msgspec.json.decode(body, type=dict[str, Raw])
    except msgspec.ValidationError:
        return []
    return find_failures(type_, values, convert)


def invalid_body(failures: list[Failure]) -> Problem:
    """422 with a JSON pointer (RFC 6901, as a URI fragment) to each field."""
    errors = tuple(FieldError(point_at(path), detail) for path, detail in failures[:MAX_ERRORS])
    return Problem(422, "The body does not fit", code="invalid", errors=errors)


def point_at(path: Sequence[str]) -> str:
    """Return the pointer to a value: `~` and `/` in a name are escaped, then what no fragment may hold."""
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
    return f"#{quote(pointer, safe=IN_FRAGMENTS)}"


def read_query(request: Request, type_: type[S]) -> S:
    """Return the query string as a struct. Raises Problem 422 with every parameter that fails."""
    text = request.scope["query_string"]
    if not text:  # most point reads have none
        return cast("S", no_query(type_))
    return read_plain_query(text, type_) or read_any_query(text, type_)


def read_any_query(query_string: bytes, type_: type[S]) -> S:
    """Any query there can be. Raises Problem 422 with every parameter that fails, 400 for far too many."""
    text = query_string.decode("latin-1")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise Problem(400, "The query has far too many parameters", code="malformed") from None
    counts = Counter(name for name, _ in pairs)
    failures = {name: "Given twice" for name, count in counts.items() if count > 1}
    # msgspec reads null, however it is written, as None: the same as no parameter at all.
    failures |= {name: "Expected a value" for name, value in pairs if value.lower() == "null"}
    failures |= {name: "Expected UTF-8" for name, value in pairs if "\ufffd" in value}
    try:
        query = validate(type_, dict(pairs), strict=False)
    except Invalid as invalid:
        raise invalid_query({path[0]: detail for path, detail in invalid.failures} | failures) from None
    if failures:
        raise invalid_query(failures)
    return query


PLAIN_QUERY = re.compile(rb"[A-Za-z0-9_.~,:@=&-]+")
"""What most queries are made of: nothing that is escaped."""


def read_plain_query(text: bytes, type_: type[S]) -> S | None:
    """Return a query of the usual kind, if all of it fits; `read_any_query` takes three times as long."""
    if not PLAIN_QUERY.fullmatch(text) or b"null" in text.lower():
        return None
    try:
        pairs = [part.split("=") for part in text.decode("ascii").split("&")]
        values = dict[str, str](pairs)
        fits = len(values) == len(pairs)
        return msgspec.convert(values, type_, strict=False, dec_hook=parse_hook) if fits else None
    except (ValueError, msgspec.ValidationError):  # a part that is no pair, a value that does not fit
        return None


@cache
def no_query(type_: type[Struct]) -> Struct:
    """Return a query with every parameter left out."""
    return validate(type_, {}, strict=False)


def invalid_query(failures: Mapping[str, str]) -> Problem:
    """422 that names query parameters."""
    errors = tuple(FieldError(f"?{name}", detail) for name, detail in failures.items())
    return Problem(422, "The query does not fit", code="invalid", errors=errors)


ZERO = ord("0")


def parse_id(text: bytes) -> int | None:
    """Return an id as it is written: ASCII digits, no zero in front, at most int8's largest."""
    if text.isdigit() and text[0] != ZERO and len(text) < 20 and (id_ := int(text)) < 2**63:
        return id_
    return None


class IdConvertor(Convertor[int | None]):
    """`{id:id}` in a route: no other path has its form, so such a route may come before all others."""

    regex = "[1-9][0-9]{0,18}"

    def convert(self, value: str) -> int | None:
        """Return the id; None for one that is larger than int8's largest."""
        return parse_id(value.encode())

    def to_string(self, value: int | None) -> str:
        """Return it as it is written."""
        return str(value)


register_url_convertor("id", IdConvertor())


def read_id(request: Request) -> int:
    """Return the `{id}` of the path. Raises Problem 404 for what can be no id."""
    id_ = request.path_params["id"]
    if isinstance(id_, int):  # a path of another form comes as text, through the route without a convertor
        return id_
    raise Problem(404, "There is nothing with this id")
