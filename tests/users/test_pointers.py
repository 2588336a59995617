"""JSON pointers in errors: each leads to the very value that fails, in the document that was sent."""

import json
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc.http.parsing import parse_body
from svc.http.problems import FieldError, Problem
from svc.http.validation import split_message
from svc.users.structs import CreateUser, ImportUser, LookUpUsers, UpdateUser

NAMES = st.text(st.sampled_from("/~01%2\"'`[].$-@ \\^|#é\u202e😀\x7f\x00"), max_size=6) | st.sampled_from(
    ["0", "- at `$.x`", "`$[0]`", "$", "", "...", "[...]", "%2F", "~1", "key", " - at `key` in `$`"]
)
FIELDS = {"email", "password", "display_name", "profile", "referred_by", "hashed_password", "is_active"}
GOOD = {"email": "ada@example.com", "password": "correct horse", "profile": {"a": [1]}}
BAD: dict[str, list[Any]] = {
    "email": [1, None, "x", "- at `$[7]`@", [1], {"0": 1}],
    "password": [1, "short", "\0" * 9, [], {}],
    "display_name": [1, "", "a\n", [0], {"/": 0}],
    "profile": [1, [1], "x", {"a": "\0"}, {"\0": 1}],
}
TOO_LARGE = "0.5e999"
"""A number that no type holds: JSON's text for it is put in by hand."""


def errors(type_: type[msgspec.Struct], body: bytes) -> tuple[FieldError, ...]:
    """What a body is told."""
    with pytest.raises(Problem) as caught:
        parse_body(body, type_)
    assert caught.value.status == 422, caught.value
    return caught.value.errors


def resolve(pointer: str, document: Any) -> Any:
    """The value that a pointer leads to (RFC 6901, 4 and 6)."""
    assert pointer.startswith("#")
    assert pointer.isascii()
    assert not {*pointer} & {*' "<>\\^`{|}'}
    text = unquote(pointer[1:], errors="strict")
    assert text == "" or text.startswith("/")
    for part in text.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        document = document[int(name)] if isinstance(document, list) else document[name]
    return document


@st.composite
def documents(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """A document for CreateUser, and the names of what is wrong with it."""
    unknown = draw(st.lists(NAMES.filter(lambda name: name not in FIELDS), max_size=4, unique=True))
    bad = draw(st.lists(st.sampled_from([*BAD]), max_size=3, unique=True))
    document = GOOD | {name: draw(st.sampled_from(BAD[name])) for name in bad}
    names = draw(st.permutations([*document, *unknown]))
    return {name: document.get(name, name) for name in names}, [*unknown, *bad]


@given(documents())
def test_each_failing_field_is_pointed_at_and_no_other(made: tuple[dict[str, Any], list[str]]) -> None:
    document, wrong = made
    if not wrong:
        return
    found = errors(CreateUser, json.dumps(document).encode())
    assert len({error.pointer for error in found}) == len(found) == len(wrong)
    for name in wrong:
        pointed = [error for error in found if unquote(error.pointer) == "#/" + escape(name)]
        assert len(pointed) == 1, (name, found)
        assert resolve(pointed[0].pointer, document) is document[name]


def escape(name: str) -> str:
    """A name as it stands in a pointer."""
    return name.replace("~", "~0").replace("/", "~1")


PLACES = st.recursive(
    st.just(TOO_LARGE),
    lambda inner: (
        st.builds(lambda before, value: [*before, value], st.lists(st.integers(), max_size=2), inner)
        | st.builds(lambda name, value: {"first": 0, name: value}, NAMES, inner)
    ),
)


@given(NAMES, PLACES)
def test_a_number_that_is_too_large_is_pointed_at_by_what_holds_it(name: str, place: Any) -> None:
    """msgspec does not say under which name of a mapping it was: never is another place named."""
    profile = json.dumps({name: place}).replace(f'"{TOO_LARGE}"', "1e999")
    for type_, start in ((CreateUser, ""), (ImportUser, ""), (UpdateUser, "")):
        rest = ', "email": "ada@example.com", "password": "correct horse"' if type_ is not UpdateUser else ""
        (error,) = errors(type_, f'{{{start}"profile": {profile}{rest}}}'.encode())
        assert error.pointer == "#/profile"


@given(st.integers(0, 5), st.sampled_from([0, "x", None, 2**64, [1], {"0": 1}, 1e999]))
def test_of_a_list_the_element_is_pointed_at(at: int, bad: Any) -> None:
    ids: list[Any] = [1, 2, 3, 4, 5]
    ids.insert(at, bad)
    document = {"ids": ids}
    body = json.dumps(document).replace("Infinity", "1e999").encode()
    (error,) = errors(LookUpUsers, body)
    assert error.pointer == f"#/ids/{at}"
    assert resolve(error.pointer, document) is bad


def test_what_is_missing_is_pointed_at_where_it_should_be() -> None:
    found = {error.pointer: error.detail for error in errors(CreateUser, b'{"x": 1}')}
    assert found == {"#/x": "Unknown field", "#/email": "Required", "#/password": "Required"}


def test_what_is_no_object_is_pointed_at_as_a_whole() -> None:
    for body in (b"[1e999]", b"[[0]]", b"0", b'"- at `$[0]`"', b"null"):
        assert [error.pointer for error in errors(CreateUser, body)] == ["#"]


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """A struct in a struct, and mappings of it."""

    size: int
    by_name: dict[str, list[int]] = {}
    by_number: dict[int, int] = {}
    parts: list["Inner"] = []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"size": "x"}', ("size",)),
        (b'{"size": 1, "parts": [{"size": 1}, {"size": "x"}]}', ("parts", "1", "size")),
        (b'{"size": 1, "parts": [{"size": 1, "parts": [{}]}]}', ("parts", "0", "parts", "0")),
        (b'{"size": 1, "by_name": {"0": ["x"]}}', ("by_name",)),
        (b'{"size": 1, "parts": [{"size": 1, "by_name": {"a": [1, "x"]}}]}', ("parts", "0", "by_name")),
        (b'{"size": 1, "by_number": {"x": 1}}', ("by_number",)),
        (b'{"size": 1, "by_number": {"1": "x"}}', ("by_number",)),
        (b'{"size": 1, "parts": [{"size": 1, "x - at `$.y`": 2}]}', ("parts", "0")),
        (b"[]", ()),
    ],
)
def test_the_path_in_a_message_ends_where_msgspec_knows_no_further(
    body: bytes, path: tuple[str, ...]
) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=Inner)
    assert split_message(caught.value)[0] == path
    assert "`$" not in split_message(caught.value)[1].replace("`x - at `$.y``", "")


def test_a_message_of_another_form_is_left_as_it_is() -> None:
    for text in ("Expected some - at `$.a` at least", "no place", "x - at `y`", ""):
        assert split_message(msgspec.ValidationError(text)) == ((), text)
