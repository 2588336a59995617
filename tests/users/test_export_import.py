"""What one service exports, another one imports."""

import json

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from svc.http.emails import Email
from tests.support.imports import (
    Sql,
    line,
    post,
    refused,
)

NAMES = st.none() | st.text(
    st.characters(
        exclude_characters="\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
        exclude_categories=["Cs", "Cc"],
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=20)
@given(st.dictionaries(st.emails(), NAMES, max_size=8))
def test_an_export_imported_elsewhere_gives_the_same_users(
    client: httpx.Client, sql: Sql, given: dict[str, str | None]
) -> None:
    sql("truncate users cascade")
    first = post(client, b"\n".join(line(email, display_name=name) for email, name in given.items()))
    names = {}
    for email, name in given.items():
        try:
            names.setdefault(str(Email.parse(email)), name)
        except ValueError:
            assert "#/email" in refused(first).popitem()[1]
    exported = [json.loads(text) for text in client.get("/users/export").text.split("\n")[:-1]]
    assert {user["email"]: user["display_name"] for user in exported} == names
    sql("truncate users cascade")
    again = post(
        client, b"\n".join(line(user["email"], display_name=user["display_name"]) for user in exported)
    )
    assert (again["created"], again["skipped"], again["refused_count"]) == (len(names), 0, 0)
    imported = [json.loads(text) for text in client.get("/users/export").text.split("\n")[:-1]]
    for user in exported + imported:
        del user["id"], user["created_at"]
    assert imported == exported
