"""Look-ups, and JSON that PostgreSQL makes: the same users in the same words as everywhere else."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from svc.config import Config
from svc.users.structs import User
from tests.support import Service, make_key, pointers, problem
from tests.support.locks import BACKENDS
from tests.support.users import ANY_TEXT, FILL

Sql = Callable[..., list[tuple[Any, ...]]]
Object = dict[str, Any]

SORTS = ("id", "-id", "email", "-email", "created_at", "-created_at")
PUBLIC = ["id", "email", "display_name", "is_active", "created_at"]


def look_up(client: httpx.Client, **body: object) -> list[Object | None]:
    """What a look-up finds."""
    found: list[Object | None] = client.post("/users/lookup", json=body).raise_for_status().json()["users"]
    return found


def test_users_come_in_the_order_asked_and_null_where_there_is_none(
    client: httpx.Client, users: list[Object]
) -> None:
    ada, bob, cyd = users
    none = cyd["id"] + 1
    asked = [(cyd, 1), (None, 1), (ada, 2), (cyd, 1), (None, 2), (bob, 1)]
    expected = [user for user, times in asked for _ in range(times)]
    assert look_up(client, ids=[user["id"] if user else none for user in expected]) == expected
    assert (
        look_up(client, emails=[user["email"] if user else "x@example.com" for user in expected]) == expected
    )
    assert look_up(client, ids=[]) == look_up(client, emails=[]) == []
    assert look_up(client, ids=[2**63 - 1]) == look_up(client, emails=["x@example.com"]) == [None]
    assert [[*user] for user in look_up(client, ids=[ada["id"], bob["id"]]) if user] == [PUBLIC] * 2


def test_emails_are_looked_up_in_any_spelling(client: httpx.Client, users: list[Object]) -> None:
    spellings = ["ADA@example.com", " ada@EXAMPLE.com", "Ada L <ada@example.com>", '"L" <Ada@Example.Com>']
    assert look_up(client, emails=spellings) == users[:1] * 4
    kelvin = client.post(
        "/users", json={"email": "ma\u0308x@bücher.example.com", "password": "correct horse"}
    ).json()
    assert look_up(client, emails=["MÄX@xn--bcher-kva.example.com", "mäx@BÜCHER.example.com"]) == [kelvin] * 2


UNFIT: list[tuple[object, set[str]]] = [
    ({}, {"#"}),
    ({"ids": [1], "emails": []}, {"#"}),
    ({"ids": [], "emails": []}, {"#"}),
    ([1], {"#"}),
    ({"ids": None}, {"#/ids"}),
    ({"ids": "1"}, {"#/ids"}),
    ({"ids": list(range(1, 1002))}, {"#/ids"}),
    ({"emails": ["a@example.com"] * 1001}, {"#/emails"}),
    ({"ids": [1], "id": 1}, {"#/id"}),
    ({"ids": [0], "emails": ["x"], "limit": 1}, {"#/ids/0", "#/emails/0", "#/limit"}),
    *(({"ids": [1, bad]}, {"#/ids/1"}) for bad in (0, -1, 2**63, "1", True, None, 1.5, [1])),
    *(({"emails": ["a@b.de", bad]}, {"#/emails/1"}) for bad in ("", "x", 1, None, "a@b.de\n", "a\0@b.de")),
]


def test_what_is_no_look_up_is_named_and_a_thousand_are_not_too_many(client: httpx.Client, sql: Sql) -> None:
    sql(FILL, 1000)
    for body, wrong in UNFIT:
        found = pointers(problem(client.post("/users/lookup", json=body), 422))
        assert {re.sub(r"/\d$", "", each) for each in found} == {
            re.sub(r"/\d$", "", each) for each in wrong
        }, body
    ids = list(range(1000, 0, -1))
    assert [user and user["id"] for user in look_up(client, ids=ids)] == ids
    emails = [f"{id_}@example.com" for id_ in ids]
    assert [user and user["email"] for user in look_up(client, emails=emails)] == emails
    assert problem(client.get("/users/lookup"), 405)
    assert problem(client.post("/users/lookup", content="ids=1"), 415)
    problem(client.post("/users/lookup", content="{", headers={"Content-Type": "application/json"}), 400)


def test_a_look_up_is_for_those_who_may_read(service: Service) -> None:
    for scopes, status in (("users:read",), 200), (("users:write",), 403):
        with service.client(make_key(service.config, *scopes)) as client:
            assert client.post("/users/lookup", json={"ids": [1]}).status_code == status
    with service.client() as client:
        problem(client.post("/users/lookup", json={"ids": [1]}), 401)


def take(text: str) -> list[str]:
    """Every created_at of an answer, as it is written."""
    return re.findall(r'"created_at":("[^"]*")', text)


def read_everywhere(client: httpx.Client, number: int) -> list[tuple[str, list[Object], list[str]]]:
    """The users 1 to a number, by each way that there is to read them, and their instants as they are written."""
    ids, emails = list(range(1, number + 1)), [f"{n}@example.com" for n in range(1, number + 1)]
    ways: dict[str, list[httpx.Response]] = {
        "one by one": [client.get(f"/users/{id_}") for id_ in ids],
        "by email": [client.get("/users", params={"email": email}) for email in emails],
        "ids": [client.post("/users/lookup", json={"ids": ids})],
        "emails": [client.post("/users/lookup", json={"emails": emails})],
        "chosen": [client.get("/users", params={"fields": ",".join(PUBLIC), "limit": 1000})],
    }
    for sort in SORTS:
        ways[sort] = list(pages(client, sort, number // 2 + 1))
    found = []
    for way, answers in ways.items():
        bodies = [answer.raise_for_status().json() for answer in answers]
        users = [user for body in bodies for user in body.get("users", [body])]
        instants = [text for answer in answers for text in take(answer.text)]
        order = sorted(range(len(users)), key=lambda each: users[each]["id"])
        found.append((way, [users[each] for each in order], [instants[each] for each in order]))
    return found


def pages(client: httpx.Client, sort: str, limit: int) -> "list[httpx.Response]":
    """All pages of a list."""
    answers, cursor = [], None
    while cursor or not answers:
        query = {"sort": sort, "limit": limit} | ({"cursor": cursor} if cursor else {})
        answers.append(client.get("/users", params=query))
        cursor = answers[-1].raise_for_status().json()["next_cursor"]
    return answers


INSTANTS = """
2026-01-31T12:00:00Z 2026-01-31T12:00:00.5Z 2026-01-31T12:00:00.12Z 2026-01-31T12:00:00.000001Z
2026-01-31T12:00:00.1Z 2026-01-31T23:59:59.999999Z 2024-02-29T00:00:00Z 1999-12-31T23:59:60Z 1970-01-01T00:00:00Z
1969-12-31T23:59:59.999999Z 1899-12-31T23:59:59Z 1850-03-04T01:02:03.25Z 0900-01-01T00:00:00Z
0001-01-01T00:00:00Z 0001-01-01T00:00:00.000001Z 9999-12-31T23:59:59Z 9999-12-31T23:59:59.999999Z
""".split()

ODD_SETTINGS = [
    {"timezone": "Asia/Kathmandu", "datestyle": "SQL, DMY", "intervalstyle": "iso_8601"},
    {
        "timezone": "Africa/Monrovia",
        "datestyle": "German",
        "extra_float_digits": "0",
        "bytea_output": "escape",
    },
    {"timezone": "<-0330>+03:30", "datestyle": "Postgres, MDY", "quote_all_identifiers": "on"},
]


def test_an_instant_is_written_the_same_everywhere_whatever_the_servers_settings(
    client: httpx.Client, sql: Sql
) -> None:
    sql(FILL, len(INSTANTS))
    for number, instant in enumerate(INSTANTS, 1):
        sql("update users set created_at = %s::text::timestamptz where id = %s", instant, number)
    expected = [f'"{text}"'.replace("1999-12-31T23:59:60", "2000-01-01T00:00:00") for text in INSTANTS]
    ((name, role),) = sql("select current_database(), current_user")
    for wanted in ({}, *ODD_SETTINGS):
        for whom in (f"database {name}", f"role {role} in database {name}") if wanted else ():
            for setting, value in wanted.items():
                sql(
                    f"alter {whom} set {setting} to '{value}'"
                    if setting != "datestyle"
                    else f"alter {whom} set {setting} to {value}"
                )
        sql(f"select pg_terminate_backend(pid, 5000) {BACKENDS}")
        first, *others = read_everywhere(client, len(INSTANTS))
        assert first[2] == expected, wanted
        for way, users, instants in others:
            assert (way, users, instants) == (way, *first[1:]), wanted


def test_no_character_breaks_a_page_or_a_look_up(client: httpx.Client, sql: Sql, config: Config) -> None:
    """Every character that there is, 1,000 a user, in names, emails and profiles."""
    characters = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]
    texts = ["".join(characters[start : start + 1000]) for start in range(0, len(characters), 1000)]
    sql(ANY_TEXT)
    with psycopg.connect(str(config.database_url)) as connection, connection.cursor() as cursor:
        cursor.executemany(
            """insert into users (email, hashed_password, display_name, profile)
            values (%s || '@' || %s, '', %s, jsonb_build_object(%s::text, %s::text))""",
            [(text[:300], number, text, text, text) for number, text in enumerate(texts)],
        )
    shown = {}
    for sort in SORTS:
        for fields in (PUBLIC, ["id", "profile", "display_name"]):
            users: list[Object] = []
            cursor_ = None
            while cursor_ or not users:
                query: Object = {"sort": sort, "limit": 1000, "fields": ",".join(fields)}
                answer = client.get("/users", params=query | ({"cursor": cursor_} if cursor_ else {}))
                page = msgspec.json.decode(answer.raise_for_status().content)  # five times as fast as json
                users, cursor_ = users + page["users"], page["next_cursor"]
            assert len(users) == len(texts)
            for user in users:
                shown.setdefault(user["id"], {}).update(user)
    by_id = [shown[id_] for id_ in sorted(shown)]
    assert [user["display_name"] for user in by_id] == texts
    assert [user["email"] for user in by_id] == [f"{text[:300]}@{n}" for n, text in enumerate(texts)]
    assert [user["profile"] for user in by_id] == [{text: text} for text in texts]
    for start in range(0, len(by_id), 1000):
        some = by_id[start : start + 1000]
        assert look_up(client, ids=[user["id"] for user in some]) == [
            {key: user[key] for key in PUBLIC} for user in some
        ]


NAMES = st.none() | st.text(
    st.characters(
        exclude_categories=["Cs", "Cc"],
        exclude_characters="\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    ),
    min_size=1,
    max_size=200,
)


@settings(max_examples=20)
@given(names=st.lists(NAMES, min_size=6, max_size=6))
def test_any_name_reads_the_same_everywhere(client: httpx.Client, sql: Sql, names: list[str | None]) -> None:
    if not sql("select 1 from users limit 1"):
        sql(FILL, 6)
    for number, name in enumerate(names, 1):
        body = {"display_name": name}
        assert client.patch(f"/users/{number}", json=body).raise_for_status().json()["display_name"] == name
    first, *others = read_everywhere(client, 6)
    assert [user["display_name"] for user in first[1]] == names
    for way, users, instants in others:
        assert (way, users, instants) == (way, *first[1:])


def test_json_of_the_database_is_what_the_service_would_have_written(client: httpx.Client, sql: Sql) -> None:
    """Down to the bytes, for what needs no escape; a name that does reads the same."""
    sql(FILL, 3)
    sql("update users set display_name = 'Ünï 😀 / \u2028 it''s <&>' where id = 1")
    sql("update users set display_name = null, is_active = false where id = 2")
    for id_ in (1, 2, 3):
        alone = client.get(f"/users/{id_}").content
        assert client.post("/users/lookup", json={"ids": [id_]}).content == b'{"users":[%b]}' % alone
        assert msgspec.json.encode(msgspec.json.decode(alone, type=User)) == alone
    everyone = b",".join(client.get(f"/users/{id_}").content for id_ in (1, 2, 3))
    assert client.get("/users").content == b'{"users":[%b],"next_cursor":null}' % everyone
