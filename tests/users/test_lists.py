"""GET /users: pages, orders, filters, counts, cursors."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from httpx import Client
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svc.http.paging import write_cursor
from svc.http.parsing import read_any_query, read_plain_query
from svc.users.lists import PAGE_SIZE, describe_list, find_position
from svc.users.structs import ListUsers, User
from tests.support import pointers, problem

Sql = Callable[..., list[tuple[Any, ...]]]
Object = dict[str, Any]

SORTS = ["id", "-id", "email", "-email", "created_at", "-created_at"]
INSTANTS = [f"2026-01-01T00:00:00.00000{n}Z" for n in range(6)]
FILL = """
    insert into users (email, hashed_password, is_active, profile, created_at)
    select translate((n * 7919 %% 1009)::text, '01234', 'é._+a') || '@example.com', 'secret', n %% 3 > 0,
        jsonb_build_object('n', n), timestamptz '2026-01-01T00:00:00Z' + n * 7 %% 5 * interval '1 microsecond'
    from generate_series(1, %s) as n
"""
ROWS = """
    select id, email, is_active, to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    from users
"""
FILTERS: list[Object] = [
    active | start | end
    for active in ({}, {"is_active": True}, {"is_active": False})
    for start in ({}, {"created_from": INSTANTS[1]})
    for end in ({}, {"created_to": INSTANTS[4]})
]


@pytest.fixture
def rows(sql: Sql) -> list[Object]:
    """250 users, fifty of each of five instants; ids, emails and instants are in different orders."""
    sql(FILL, 250)
    return read(sql)


def read(sql: Sql) -> list[Object]:
    """What a list's order and filters look at."""
    return [dict(zip(("id", "email", "is_active", "created_at"), row, strict=True)) for row in sql(ROWS)]


def expect(rows: list[Object], sort: str, query: Object) -> list[int]:
    """The ids of a list, found in the plainest way."""
    chosen = [
        row
        for row in rows
        if query.get("is_active") in (None, row["is_active"])
        and query.get("created_from", INSTANTS[0]) <= row["created_at"] < query.get("created_to", INSTANTS[5])
    ]
    chosen.sort(key=lambda row: (row[sort.removeprefix("-")], row["id"]), reverse=sort.startswith("-"))
    return [row["id"] for row in chosen]


def pages(client: Client, **query: Any) -> Iterator[list[Object]]:
    """The users of each page, by way of the Link headers."""
    response = client.get("/users", params=query)
    while True:
        page = response.raise_for_status().json()
        yield page["users"]
        assert ("next" in response.links) == (page["next_cursor"] is not None)
        if "next" not in response.links:
            return
        assert len(page["users"]) == query.get("limit", 100)
        response = client.get(response.links["next"]["url"])


def ids(found: Iterator[list[Object]]) -> list[int]:
    """The ids on all pages."""
    return [user["id"] for page in found for user in page]


def test_pages_visit_every_user_once_in_order(client: Client, rows: list[Object]) -> None:
    """In all sorts, whatever the filters, and also where a page ends between users of one instant."""
    for sort, (number, query) in product(SORTS, enumerate(FILTERS)):
        found = ids(pages(client, sort=sort, limit=13 + 17 * number, **query))
        assert found == expect(rows, sort, query), (sort, query)


def test_pages_hold_while_users_come_and_go(client: Client, sql: Sql) -> None:
    """The user that a cursor stands on goes, one far ahead goes, and three come in different places."""
    new = "insert into users (email, hashed_password, created_at) values (%s, 'secret', %s)"
    for sort in SORTS:
        seen: list[int] = []
        sql("delete from users")
        sql(FILL, 100)
        order = expect(read(sql), sort, {})
        for number, page in enumerate(pages(client, sort=sort, limit=7)):
            seen += [user["id"] for user in page]
            sql("delete from users where id = any(%s)", [seen[-1], order[-1]])
            for name, created_at in zip("0é~", (INSTANTS[0], INSTANTS[number % 5], INSTANTS[5]), strict=True):
                sql(new, f"{name}{number}@example.com", created_at)
        assert len(seen) == len(set(seen)), sort
        assert [id_ for id_ in seen if id_ in order] == order[:-1], sort


def test_a_page_holds_1_to_1000_users_and_100_unless_told(client: Client, sql: Sql) -> None:
    sql(FILL, 1001)
    assert [len(page) for page in pages(client, limit=1000)] == [1000, 1]
    assert len(next(pages(client))) == 100
    sql("delete from users where id > 3")
    assert [len(page) for page in pages(client, limit=1)] == [1, 1, 1]
    assert [len(page) for page in pages(client, limit=3, sort="-email")] == [3]
    assert [len(page) for page in pages(client, limit=2, sort="created_at")] == [2, 1]


def test_a_list_of_nobody_is_empty(client: Client) -> None:
    for query in ("", "email=a@b.de", "is_active=true", *(f"sort={sort}" for sort in SORTS)):
        response = client.get(f"/users?{query}", headers={"Prefer": "count=exact"})
        assert response.json() == {"users": [], "next_cursor": None, "count": 0}, query
        assert "link" not in response.headers


def test_the_largest_id_is_listed_too(client: Client, users: list[Object], sql: Sql) -> None:
    sql("alter table users alter id restart with 9223372036854775807")
    last = client.post("/users", json={"email": "zoe@example.com", "password": "correct horse"}).json()["id"]
    for sort in SORTS:
        assert sorted(ids(pages(client, sort=sort, limit=2))) == [*(user["id"] for user in users), last], sort


def test_a_filter_by_email_takes_any_spelling(client: Client, users: list[Object]) -> None:
    (ada, bob, _), emails = users, ("ada@example.com", " ADA@Example.com", "Ada L <ada@example.COM>")
    for sort, email in product(SORTS, emails):
        query = {"email": email, "sort": sort, "limit": 1}
        assert [*pages(client, **query, created_from=ada["created_at"], is_active=True)] == [[ada]]
        assert [*pages(client, **query, created_to=bob["created_at"])] == [[ada]]
        for name, value in (
            ("is_active", False),
            ("created_to", ada["created_at"]),
            ("email", "eve@example.com"),
        ):
            assert [*pages(client, **{**query, name: value})] == [[]], name


def test_an_instant_may_come_with_any_offset(client: Client, rows: list[Object]) -> None:
    for text in ("2026-01-01T02:00:00.000002+02:00", "2025-12-31T23:30:00.000002-00:30", INSTANTS[2]):
        found = ids(pages(client, created_from=text, limit=60))
        assert found == expect(rows, "id", {"created_from": INSTANTS[2]})
    cursor = take_cursor(client, created_to=INSTANTS[1])
    same = {"created_to": "2026-01-01T01:00:00.000001+01:00", "cursor": cursor}
    assert ids(pages(client, **same)) == expect(rows, "id", {"created_to": INSTANTS[1]})[1:]


def test_fields_chooses_what_each_user_of_a_list_shows(client: Client, rows: list[Object]) -> None:
    public = ["id", "email", "display_name", "is_active", "created_at"]
    assert {tuple(user) for page in pages(client) for user in page} == {tuple(public)}
    for sort in SORTS:
        shown = [user for page in pages(client, sort=sort, fields="profile", limit=99) for user in page]
        assert shown == [{"profile": {"n": id_}} for id_ in expect(rows, sort, {})]
    ((user,),) = pages(client, fields="id,profile", email="5@example.com", limit=1)
    assert user == {"id": user["id"], "profile": {"n": user["id"]}}


def test_a_count_is_exact_where_that_is_preferred(client: Client, rows: list[Object]) -> None:
    for query, sort in product(FILTERS, SORTS):
        parameters = {"limit": 7, "sort": sort, **query}
        response = client.get("/users", params=parameters, headers={"Prefer": "count=exact"})
        assert response.json()["count"] == len(expect(rows, sort, query)), query
        assert response.headers["content-range"] == f"*/{response.json()['count']}"


def test_a_count_is_the_planners_where_an_estimate_is_preferred(
    client: Client, rows: list[Object], sql: Sql
) -> None:
    sql("analyze users")
    for query, expected in (("", 250), ("&is_active=true", 167), ("&email=nobody@example.com", 1)):
        response = client.get(f"/users?limit=7{query}", headers={"Prefer": "count=estimated"})
        assert response.json()["count"] == pytest.approx(expected, abs=2), query
        assert response.headers["content-range"] == f"*/{response.json()['count']}"
        assert response.headers["preference-applied"] == "count=estimated"


PREFERENCES: list[tuple[list[str], str | None]] = [
    ([], None),
    (["return=minimal"], None),
    (["count"], None),
    (["count=planned"], None),
    (["discount=exact"], None),
    (["count=exactly; count2=exact"], None),
    (['respond-async, Count="exact", wait=10'], "count=exact"),
    (["count=exact; x=1"], "count=exact"),
    (["count=exact, count=estimated"], "count=exact"),
    (["count = exact"], "count=exact"),
    (["return=minimal", "count=exact"], "count=exact"),  # two lines are one list
    (["x; count=exact"], None),  # a parameter of another preference
    (['x="a, count=exact"'], None),  # a quoted value
]


def test_preferences_are_read_as_rfc_7240_writes_them(client: Client, users: list[Object]) -> None:
    for lines, applied in PREFERENCES:
        response = client.get("/users", headers=[("Prefer", line) for line in lines])
        assert response.headers.get("preference-applied") == applied, lines
        assert response.headers.get("content-range") == ("*/3" if applied else None)
        assert response.json().get("count") == (3 if applied else None)


def take_cursor(client: Client, **query: Any) -> str:
    """The cursor of a first page."""
    cursor = client.get("/users", params={"limit": 1, **query}).raise_for_status().json()["next_cursor"]
    assert isinstance(cursor, str)
    return cursor


def test_a_cursor_is_of_use_with_its_own_sort_and_filters_alone(client: Client, rows: list[Object]) -> None:
    lists: list[Object] = [*({"sort": sort} for sort in SORTS), {"is_active": True}, {"is_active": False}]
    lists += [{name: INSTANTS[n]} for name in ("created_from", "created_to") for n in (2, 3)]
    cursors = [take_cursor(client, **own) for own in lists]
    for own, other in product(range(len(lists)), range(len(lists))):
        response = client.get("/users", params={**lists[other], "cursor": cursors[own]})
        assert response.is_success == (own == other), (lists[own], lists[other])
        assert response.is_success or pointers(problem(response, 422)) == {"?cursor"}
    assert pointers(problem(client.get(f"/users?email=a@b.de&cursor={cursors[0]}"), 422)) == {"?cursor"}
    assert ids(pages(client, cursor=cursors[0], limit=240, fields="id")) == expect(rows, "id", {})[1:]


def test_a_cursor_that_was_tampered_with_is_refused(client: Client, users: list[Object]) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for sort in ("id", "-email", "created_at"):
        cursor = take_cursor(client, sort=sort)
        flipped = [alphabet[alphabet.index(character) ^ 1] for character in cursor]
        tampered = [cursor[:n] + flip + cursor[n + 1 :] for n, flip in enumerate(flipped)]
        tampered += ["", "é", "null", cursor[:-1], cursor[1:], cursor * 2]
        tampered += [cursor + "A", cursor + "=", cursor + "\0", f"!{cursor}"]
        for other in tampered:
            response = client.get("/users", params={"sort": sort, "cursor": other})
            assert pointers(problem(response, 422)) == {"?cursor"}, (cursor, other)


def test_a_cursor_for_a_place_that_cannot_be_is_refused(client: Client, users: list[Object]) -> None:
    nowhere = User(2**64 - 1, "\0", None, True, "2026-01-01T00:00:00Z")
    for sort in SORTS:
        query = ListUsers(sort=sort)
        cursor = write_cursor(describe_list(query), find_position(query, nowhere))
        response = client.get("/users", params={"sort": sort, "cursor": cursor})
        assert pointers(problem(response, 422)) == {"?cursor"}, sort


UNFIT = {
    "limit": ("0", "-1", "1001", "9" * 20, "9" * 5000, "abc", "", "1.5", "٣", "1&limit=1"),
    "sort": ("name", "", "ID", "--id", "id,email", "hashed_password", "id&sort=email"),
    "fields": ("", "id,", "hashed_password", "id,version", "id&fields=id"),
    "email": ("", "x", "null", "a@b.de%0A", "%00@b.de"),
    "created_from": ("", "now", "null", "2026-01-01", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z"),
    "created_to": ("1767225600", "2026-01-01T00:00:00+02:00", "0001-01-01T00:00:00%2B00:01", "x"),
    "offset": ("1",),
    "": ("", "1"),
    "is_active": ("", "yes", "2", "null"),
}


def test_every_parameter_that_does_not_fit_is_named(client: Client, users: list[Object]) -> None:
    for name, value in ((name, value) for name, values in UNFIT.items() for value in values):
        assert pointers(problem(client.get(f"/users?{name}={value}"), 422)) == {f"?{name}"}, value
    several = "limit=0&sort=x&fields=x&email=x&is_active=x&created_from=x&created_to=x&x=x"
    named = pointers(problem(client.get(f"/users?{several}"), 422))
    assert named == {f"?{pair.partition('=')[0]}" for pair in several.split("&")}
    named = pointers(problem(client.get("/users?limit=0&sort=id&sort=id&page=1"), 422))
    assert named == {"?limit", "?sort", "?page"}


NAMES = st.sampled_from(["limit", "cursor", *UNFIT])
VALUES = st.text() | st.sampled_from(["1", "true", "-id", "id,profile", "a@b.de", *INSTANTS])


@settings(max_examples=80)
@given(query=st.dictionaries(NAMES, VALUES))
def test_any_query_is_answered_or_named_as_wrong(client: Client, query: dict[str, str]) -> None:
    response = client.get("/users", params=query)
    if response.status_code != 200:
        assert pointers(problem(response, 422)) <= {f"?{name}" for name in query}


PARTS = """limit=2 limit=5 limit=x limit= limit limit=+1 limit=1e1 limit=1.0 sort=-id sort= = email=a@b.co email=A@b.co
is_active=true is_active=1 is_active=null fields=id,email fields=id,x cursor=a-_ cursor=%41 x=y é \0
created_from=2026-01-01T00:00:00Z created_to=2026-01-01""".split()


def test_most_queries_are_plain() -> None:
    assert read_plain_query(b"limit=2&sort=-id", ListUsers) == ListUsers(limit=2, sort="-id")


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("&".join))
@settings(max_examples=1000)
@example("limit=2&limit=2")
@example("is_active=NULL")
def test_a_plain_query_is_read_as_any_other_would_be(text: str) -> None:
    query_string = text.encode()
    if (plain := read_plain_query(query_string, ListUsers)) is not None:
        assert read_any_query(query_string, ListUsers) == plain


LARGE = """
    insert into users (email, hashed_password, profile)
    select n || '@example.com', 'secret', jsonb_build_object('n', repeat('x', case when n %% 7 = 0 then 250000 else 9 end))
    from generate_series(1, %s) as n
"""


def walk_pages(client: Client, sort: str, limit: int) -> Iterator[list[Object]]:
    """All pages of users with their profiles, as their links lead from one to the next."""
    answer = client.get("/users", params={"sort": sort, "limit": limit, "fields": "id,profile"})
    yield answer.raise_for_status().json()["users"]
    while "next" in answer.links:
        answer = client.get(answer.links["next"]["url"]).raise_for_status()
        yield answer.json()["users"]


@pytest.mark.parametrize("sort", SORTS)
def test_a_page_is_bounded_in_bytes_as_well(client: Client, sql: Sql, sort: str) -> None:
    """It ends with the profile that reaches the bound; no user is left out, none comes twice."""
    sql(LARGE, 80)
    pages = [*walk_pages(client, sort, 1000)]
    sizes = [[len(user["profile"]["n"]) for user in page] for page in pages]
    assert [sum(page) >= PAGE_SIZE for page in sizes] == [True, True, False]
    assert all(sum(page[:-1]) < PAGE_SIZE for page in sizes)
    ids = [user["id"] for page in pages for user in page]
    assert sorted(ids) == sorted(id_ for (id_,) in sql("select id from users"))
    assert ids == [user["id"] for page in walk_pages(client, sort, 7) for user in page]


def test_a_page_of_small_profiles_is_as_long_as_it_is_asked_for(client: Client, sql: Sql) -> None:
    sql(FILL, 200)
    assert [len(page) for page in walk_pages(client, "id", 90)] == [90, 90, 20]
    assert [len(page) for page in walk_pages(client, "-id", 100)] == [100, 100]
