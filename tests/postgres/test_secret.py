"""What is secret leaves its wrapping by `reveal` alone."""

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from msgspec import Raw, Struct

from svc.postgres.mapping import make_gather, make_row
from svc.postgres.secret import Secret, reveal

VALUE = "hunter2"


class Row(Struct):
    """A row with secrets."""

    id: int
    hash: Secret[str]
    token: Secret[bytes] | None = None


WAYS: dict[str, Callable[[Any], object]] = {
    "str": str,
    "format": format,
    "an f-string": lambda secret: f"{secret}",
    "format with a width": lambda secret: f"{secret:>20}",
    "percent": lambda secret: "%s" % secret,  # noqa: UP031
    "str.format": "{}".format,
    "join": lambda secret: ",".join([secret]),
    "bytes": bytes,
    "memoryview": memoryview,
    "int": int,
    "equality": lambda secret: secret == VALUE,
    "equality with itself": lambda secret: secret == Secret(VALUE),
    "difference": lambda secret: secret != VALUE,
    "order": lambda secret: secret < "z",
    "sorting": lambda secret: sorted([secret, secret]),
    "a set": lambda secret: {secret},
    "in": lambda secret: secret in ["a", VALUE],
    "contains": lambda secret: "h" in secret,
    "truth": bool,
    "length": len,
    "iteration": list,
    "an index": lambda secret: secret[0],
    "adding": lambda secret: secret + "",
    "adding to": lambda secret: "" + secret,
    "JSON": msgspec.json.encode,
    "MessagePack": msgspec.msgpack.encode,
    "builtins": msgspec.to_builtins,
    "JSON of a struct": lambda secret: msgspec.json.encode(Row(1, secret)),
    "json": json.dumps,
    "json with str": lambda secret: json.dumps(secret, default=str),
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "vars": vars,
    "equal rows": lambda secret: Row(1, secret) == Row(1, Secret(VALUE)),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_other_way_out_is_refused(way: str) -> None:
    with pytest.raises(TypeError) as caught:
        WAYS[way](Secret(VALUE))
    assert VALUE not in str(caught.value)


def test_a_log_and_a_traceback_show_that_there_is_one(caplog: pytest.LogCaptureFixture) -> None:
    row = Row(1, Secret(VALUE), Secret(b"token"))
    logging.getLogger("a test").warning("found %r", row)
    try:
        raise ValueError(row)
    except ValueError:
        shown = traceback.format_exc()
    assert repr(row) in caplog.text
    assert repr(row) in shown
    assert VALUE not in caplog.text + shown


def test_a_row_comes_with_its_secrets_wrapped() -> None:
    row: Any = make_row(Row)(1, VALUE, b"token")
    assert (row.id, reveal(row.hash), reveal(row.token)) == (1, VALUE, b"token")
    assert make_row(Row)(1, VALUE, None).token is None  # type: ignore[attr-defined]


def test_a_column_of_secrets_comes_with_each_wrapped() -> None:
    rows: Any = make_gather(Row)([[1, 2], ["a", "b"], None])
    assert [(row.id, reveal(row.hash), row.token) for row in rows] == [(1, "a", None), (2, "b", None)]
    rows = make_gather(Row)([Raw(b"[1, 2]"), Raw(b'["a", "b"]'), None])
    assert [(row.id, reveal(row.hash), row.token) for row in rows] == [(1, "a", None), (2, "b", None)]


class Person(Struct):
    id: int
    token: Secret[str] | None


def test_a_secret_in_json_may_be_null() -> None:
    first, second = cast("list[Person]", make_gather(Person)([Raw(b"[1, 2]"), Raw(b'["a", null]')]))
    assert first.token is not None
    assert (reveal(first.token), second.token) == ("a", None)


def test_a_secret_alone_comes_wrapped() -> None:
    secret: Any = make_row(Secret[str])(VALUE)
    assert (reveal(secret), repr(secret)) == (VALUE, "Secret(…)")
