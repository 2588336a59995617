"""Bad input: tables of it, texts and values for examples, and calls that must be refused and change nothing."""

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
from hypothesis import settings
from hypothesis import strategies as st

from tests.support import problem

Call = tuple[str, bytes | Iterator[bytes] | None]
"""A path and a body."""

JSON = {"Content-Type": "application/json"}


def expand(table: str) -> list[list[str]]:
    """Return the words of each line, with those that are too long to write out."""
    words = {"LONG": "9" * 5000, "WIDE": "x" * 10_000, "DEEP": "[" * 32 + "]" * 32, "EMPTY": ""}
    for word, long in words.items():
        table = table.replace(word, long)
    return [line.split(" ") for line in table.strip().split("\n")]


def send_bad(
    client: httpx.Client, listed: str, method: str, calls: Iterable[Call], *statuses: int
) -> list[dict[str, Any]]:
    """Make calls; return their problems.

    Holds that none changed what the path `listed` answers, and names all that had another status.
    """
    before = client.get(listed).raise_for_status().json()
    documents, wrong = [], []
    for path, content in calls:
        response = client.request(method, path, content=content, headers=JSON)
        call = f"{method} {path[:60]} {content[:70] if isinstance(content, bytes) else content!r}"
        assert client.get(listed).raise_for_status().json() == before, call
        if response.status_code in statuses:
            documents.append(problem(response, response.status_code))
        else:
            wrong.append(f"{call}: {response.status_code}")
    assert not wrong, f"not {statuses}:\n" + "\n".join(wrong)
    return documents


def pack(position: object) -> bytes:
    """Return the content of a cursor: MessagePack, or bytes as they are."""
    return bytes(position) if isinstance(position, msgspec.Raw) else msgspec.msgpack.encode(position)


# One service serves all examples, so what an example may change is the first row alone.
FUZZ = settings(max_examples=150)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(2**63) | st.floats() | TEXTS | st.emails()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXTS, v, max_size=4))
WORDS = st.text().map(quote) | st.integers().map(str) | st.text("%&=;+.:-_TZ0123456789")


def make_bodies(*fields: str) -> st.SearchStrategy[bytes]:
    """Return bodies of these fields, and others; some are cut, some are not JSON at all."""
    names = st.sampled_from(fields) | TEXTS
    documents = (st.dictionaries(names, VALUES, max_size=5) | VALUES).map(json.dumps).map(str.encode)
    mangled = st.builds(lambda body, at, junk: body[:at] + junk, documents, st.integers(0, 60), st.binary())
    return documents | mangled | st.binary()


def make_queries(*parameters: str) -> st.SearchStrategy[str]:
    """Return queries of these parameters, and others."""
    pairs = st.tuples(st.sampled_from(parameters) | WORDS, WORDS).map("=".join)
    return st.lists(pairs, max_size=4).map("&".join) | WORDS


def check_answer(client: httpx.Client, path: str, rows: list[dict[str, Any]], answer: httpx.Response) -> None:
    """Hold that an answer is a good one or a problem, and that all rows but the first are as they were."""
    if answer.status_code >= 400:
        assert answer.status_code in (400, 409, 413, 422), answer.text
        problem(answer, answer.status_code)
    assert [client.get(f"{path}/{row['id']}").json() for row in rows[1:]] == rows[1:]
