"""`svc check` on arrays: what fills a list of structs, and what a list of structs fills, goes by name."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET, Raw, Struct, UnsetType

from svc.check.findings import Finding
from svc.check.laboratory import fill
from svc.check.prove import Proof, Schema, read_schema
from svc.check.scratch import ScratchConnection as Connection
from svc.check.scratch import connect
from svc.check.trials import Experiment
from svc.database_url import DatabaseUrl
from svc.http.fields import JsonObject
from svc.postgres.mapping import Moment
from svc.postgres.queries import read_signature
from svc.postgres.statements import read_queries
from tests.support import TEMPLATE, at, make_config, skip_before_18

SCHEMA = """
create table teams (
    id bigint generated always as identity primary key, name text not null, motto text,
    labels text[] not null default '{}', notes jsonb not null default '{}', token text,
    created timestamptz not null default now()
);
comment on column teams.token is 'secret';
"""


@pytest.fixture(scope="module")
def made(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[tuple[DatabaseUrl, Schema]]:
    """Make a database with a table that is filled; the texts that may be null are null in every second row."""
    skip_before_18(server_url)
    name = f"{TEMPLATE}_arrays"
    admin(f"create database {name} template template0")

    async def make() -> Schema:
        connection = await connect(make_config(at(server_url, name)))
        await connection.execute(SCHEMA)
        schema = await read_schema(connection)
        await fill(connection, schema, {"teams"}, 100)
        await connection.close()
        return schema

    yield at(server_url, name), asyncio.run(make())
    admin(f"drop database {name} with (force)")


class Team(Struct):
    id: int
    name: str
    motto: str | None


class Change(Struct):
    id: int
    name: str
    motto: str | None | UnsetType = UNSET
    notes: JsonObject | None = None


class Asked(Struct):
    after: int
    size: int
    wanted: bool


class Motto(Struct):
    motto: str | None
    id: int


class Event(Struct):
    id: int
    at: Moment
    notes: Raw | None = None


async def list_events(self) -> list[Event]: ...
async def list_each(self, *, asked: list[Asked]) -> list[list[Team]]: ...
async def list_mottos(self) -> list[Motto]: ...
async def list_teams(self, *, some: bool) -> list[Team]: ...
async def change(self, *, changes: list[Change]) -> int: ...


Made = tuple[DatabaseUrl, Schema]


def check(made: Made, method: Any, statement: str, kind: str = "columns", header: str = "") -> list[Finding]:
    """Prove a statement, which begins on line 2 unless there is a header, then try it."""
    text = f"-- name: made :{kind}\n{header}{statement};\n"
    (query,) = read_queries(text, Path("made.sql")).values()
    signature = read_signature("made", method)

    async def work(connection: Connection) -> list[Finding]:
        found = await Proof(connection, made[1], query, signature).run()
        return [*found, *await Experiment(connection, made[1], query, signature).run()]

    async def run() -> list[Finding]:
        connection = await connect(make_config(made[0]))
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def select(
    id: str = "{id}", name: str = "{name}", motto: str = "{motto}", rest: str = "from teams where :some"
) -> str:
    """Write a statement of three arrays; `{x}` is the array of a column."""
    columns = f"select {id} as id,\n{name} as name,\n{motto} as motto\n{rest}"
    for column in ("id", "name", "motto"):
        columns = columns.replace(f"{{{column}}}", f"coalesce(array_agg({column}), '{{}}')")
    return columns


SOUND = [
    select(),
    select(motto="array_agg(motto) filter (where :some)", rest="from teams"),
    select(motto="null::text[]"),
    select(motto="array_agg(motto)"),
    select(id="coalesce(array_agg(id), array[]::bigint[])"),
    select(name="coalesce(array_agg(upper(name)), '{}')"),
    select(name="coalesce(array_agg(coalesce(motto, name)), '{}')"),
    select(name="coalesce(array_agg(name::varchar), '{}')::text[]"),
    select(rest="from (select id, name, motto from teams where :some order by name desc limit 10) as page"),
    select(rest="from (select t.id, t.name, u.motto from teams t left join teams u on :some) as joined"),
    "with made as (update teams set motto = name where :some returning id, name, motto)\n"
    + select(rest="from made"),
]


@pytest.mark.parametrize("statement", SOUND)
def test_arrays_of_all_rows_are_proven(made: Made, statement: str) -> None:
    assert check(made, list_teams, statement) == []


def in_json(statement: str) -> str:
    """Write the same statement with JSON in place of arrays."""
    said = (
        statement.replace("array_agg", "json_agg")
        .replace("'{}'", "'[]'")
        .replace("null::text[]", "null::json")
    )
    return said.replace("array[]::bigint[]", "json '[]'").replace("'{none}'", "'[1]'")


@pytest.mark.parametrize("statement", [each for each in SOUND if "::text[]" not in in_json(each)])
def test_json_of_all_rows_is_proven(made: Made, statement: str) -> None:
    assert check(made, list_teams, in_json(statement)) == []


MOMENT = "(created at time zone 'UTC')"
EVENTS = (
    "select coalesce(json_agg(id), '[]') as id, coalesce(json_agg({}), '[]') as at, {} as notes from teams"
)


def test_a_moment_is_a_timestamp_in_json_and_only_what_json_holds_may_be_there(made: Made) -> None:
    sound, notes = [MOMENT, "created::timestamp"], "json_agg(notes) filter (where false)"
    assert [check(made, list_events, EVENTS.format(each, notes)) for each in sound] == [[], []]
    (found,) = check(
        made, list_events, EVENTS.format(MOMENT, "coalesce(json_agg(nullif(notes, '{}')), '[]')")
    )
    assert (found.kind, found.found) == ("column", "jsonb in the SQL")  # is a null SQL's or JSON's?
    for moment, said in (("created", "timestamptz"), ("created::text", "text"), ("created::date", "date")):
        (found,) = check(made, list_events, EVENTS.format(moment, notes))
        assert (found.kind, found.found) == ("column", f"{said} in the SQL")
    (found,) = check(made, list_teams, in_json(select(id="coalesce(json_agg(id::float8), '[]')")))
    assert (found.kind, found.found) == ("column", "float8 in the SQL")


PAGES = """select coalesce(json_agg(page.id), '[]') as id, coalesce(json_agg({}), '[]') as name,
    {} as motto
from (
    select page.* from unnest((select :asked.after::bigint[]), :asked.size::bigint[], :asked.wanted::boolean[])
        with ordinality as asked (after, size, wanted, number)
    cross join lateral (
        select coalesce(json_agg(id), '[]') as id, coalesce(json_agg(name), '[]') as name, {} as motto
        from (select * from teams where id > asked.after order by id limit asked.size) as walked
    ) as page
    {}
    order by asked.number
) as page"""

EACH = "coalesce(json_agg(page.motto), '[]')"
MOTTO = "json_agg(motto) filter (where asked.wanted)"
OTHER = "cross join (select coalesce(json_agg(name), '[]') as other from teams) as others"


def test_lists_of_lists_are_proven_as_lists_are(made: Made) -> None:
    sound = [PAGES.format("page.name", EACH, motto, "") for motto in (MOTTO, "json_agg(motto)", "null::json")]
    assert [check(made, list_each, statement) for statement in sound] == [[], [], []]


@pytest.mark.parametrize(
    ("kind", "said", "parts"),
    [
        ("column", "another array", ("json_array_length(page.name)", EACH, MOTTO, "")),
        ("column", "another array", ("page.name", EACH, "json_agg(motto) filter (where id > 1)", "")),
        ("nullability", "motto may be null as a whole", ("page.name", "json_agg(page.motto)", MOTTO, "")),
        ("nullability", "name may be null", ("page.motto", EACH, "coalesce(json_agg(motto), '[]')", "")),
        ("column", "int8 in the SQL", ("page.id", EACH, MOTTO, "")),
        ("column", "lists of several", ("page.other", EACH, MOTTO, OTHER)),
        ("cardinality", "none, or several", ("page.name", EACH, MOTTO, "group by")),
    ],
)
def test_lists_that_are_not_of_the_same_rows_are_found(
    made: Made, kind: str, said: str, parts: tuple[str, str, str, str]
) -> None:
    statement = PAGES.format(*parts[:3], "" if parts[3] == "group by" else parts[3])
    if parts[3] == "group by":
        statement = statement.replace(") as walked", ") as walked group by length(name)")
    elif parts[3]:
        statement = statement.replace("select page.* from", "select page.*, others.other from")
    found = check(made, list_each, statement)
    assert [(each.kind, each.found) for each in found if not each.warning] == [(kind, said)]


UNSOUND = [  # the kind of what is found, its line, what is said
    ("column", 1, "name, id, motto", "select {name} as name, {id} as id, {motto} as motto from teams where :some"),
    ("column", 1, "id, name, mottos", "select {id} as id, {name} as name, {motto} as mottos from teams where :some"),
    ("column", 1, "id, name", "select {id} as id, {name} as name from teams where :some"),
    ("column", 2, "text[] in the SQL", select(id="{name}")),
    ("column", 2, "int8 in the SQL", select(id="max(id)")),
    ("column", 3, "text in the SQL", select(name="coalesce(string_agg(name, ','), '')")),
    ("column", 3, "another array", select(name="coalesce(array_agg(name order by motto), '{}')")),
    ("column", 3, "another array", select(name="coalesce(array_agg(distinct name), '{}')")),
    ("column", 3, "another array", select(name="coalesce(array_agg(labels), '{}')")),
    ("column", 3, "another array", select(name="coalesce(array_agg(name), '{none}')")),
    ("column", 3, "another array", select(name="coalesce(array_agg(name), (select max(labels) from teams))")),
    ("column", 3, "another array", select(name="coalesce(array_agg(name) filter (where :some), '{}')")),
    ("column", 4, "another array", select(motto="array_agg(motto) filter (where motto > 'a')")),
    ("column", 4, "another array", select(motto="array_agg(motto) filter (where random() > 0.5)")),
    ("column", 4, "another array", select(motto="array(select motto from teams)")),
    ("column", 4, "another array", select(motto="max(labels)")),
    ("nullability", 3, "name may be null", select(name="coalesce(array_agg(motto), '{}')")),
    ("nullability", 3, "name may be null", select(rest="from (select t.id, u.name, u.motto from teams t left join teams u on :some) as x")),
    ("nullability", 3, "name may be null as a whole", select(name="array_agg(name)")),
    ("nullability", 3, "name may be null as a whole", select(name="null::text[]")),
    ("nullability", 2, "id may be null as a whole", select(id="array_agg(id)")),
    ("cardinality", 1, "none, or several", select(rest="from teams where :some group by name")),
    ("cardinality", 1, "none, or several", select(rest="from teams having :some")),
    ("cardinality", 1, "none, or several", select(rest="from teams where :some limit 1 offset 1")),
    ("secret", 4, "motto is made of teams.token", select(motto="array_agg(token)")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "line", "said", "statement"), UNSOUND)
def test_what_would_give_a_row_a_value_of_another_one_or_column_is_found(
    made: Made, kind: str, line: int, said: str, statement: str
) -> None:
    for column in ("id", "name", "motto"):
        statement = statement.replace(f"{{{column}}}", f"coalesce(array_agg({column}), '{{}}')")
    found = check(made, list_teams, statement)
    assert [(each.kind, each.line, each.found) for each in found if not each.warning] == [(kind, line, said)]


def test_the_first_array_says_how_many_rows_there_are(made: Made) -> None:
    statement = "select {} as motto, coalesce(array_agg(id), '{{}}') as id from teams"
    assert check(made, list_mottos, statement.format("coalesce(array_agg(motto), '{}')")) == []
    for lacking in ("array_agg(motto)", "null::text[]"):
        (found,) = check(made, list_mottos, statement.format(lacking))
        assert (found.kind, found.found) == ("nullability", "motto may be null as a whole")


def test_a_field_that_is_looser_than_its_elements_is_a_warning(made: Made) -> None:
    (found,) = check(made, list_teams, select(motto="coalesce(array_agg(name), '{}')"))
    assert (found.kind, found.line, found.found, found.warning) == (
        "nullability",
        4,
        "motto is never null",
        True,
    )


ANNOTATIONS = [
    ("name", select(name="coalesce(array_agg(nullif(name, '')), '{}')"), []),
    ("name", select(name="coalesce(array_agg(nullif(name, 'v@7')), '{}')"), [("annotation", "name was null")]),
    ("name", select(name="coalesce(array_agg(motto), '{}')"), [("annotation", "name was null")]),
    ("name", select(), [("annotation", "@not_null")]),
    ("name", select(name="array_agg(nullif(name, ''))"), [
        ("nullability", "name may be null as a whole"), ("annotation", "name was null"),
    ]),
    ("motto", select(motto="array_agg(name) filter (where :some)"), [
        ("nullability", "motto is never null"), ("annotation", "motto was null"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "statement", "said"), ANNOTATIONS)
def test_an_annotation_is_about_the_elements_and_is_tried(
    made: Made, annotation: str, statement: str, said: list[tuple[str, str]]
) -> None:
    found = check(made, list_teams, statement, header=f"-- @not_null: {annotation}\n")
    assert [(each.kind, each.found) for each in found] == said


CHANGE = """update teams set name = new.name, motto = new.motto, notes = coalesce(new.notes, teams.notes)
from unnest(
    {}
) as new (id, name, motto, notes)
where teams.id = new.id"""
ALL = [":changes.id::bigint[]", ":changes.name::text[]", ":changes.motto::text[]", ":changes.notes::jsonb[]"]


def test_a_list_of_structs_fits_the_columns_that_it_becomes(made: Made) -> None:
    assert check(made, change, CHANGE.format(",\n".join(ALL)), "execrows") == []


TAKEN = [
    (
        [0, 2, 1, 3],
        [
            ("a column motto out of :changes.motto", "name", 5),
            ("a column name out of :changes.name", "motto", 6),
        ],
    ),
    ([0, 1, 2, 2], [("a column motto out of :changes.motto", "notes", 6)]),
]


@pytest.mark.parametrize(("order", "said"), TAKEN)
def test_fields_that_change_places_in_an_unnest_are_found(
    made: Made, order: list[int], said: list[tuple[str, str, int]]
) -> None:
    statement = CHANGE.format(",\n".join(ALL[number] for number in order))
    if order[3] == 2:
        statement = statement.replace("coalesce(new.notes, teams.notes)", "to_jsonb(new.notes)")
    found = check(made, change, statement, "execrows")
    assert [(each.expected, each.found, each.line) for each in found if each.kind == "parameter"] == said


WRONG_ARRAYS = [
    ("delete from teams where id = any(:changes.name::bigint[])", "changes.name: list[str] that fits int8[]"),
    ("delete from teams where name = any(:changes.id::text[])", "changes.id: list[int] that fits text[]"),
    ("delete from teams where id = :changes.id::bigint", "changes.id: list[int] that fits int8"),
]


@pytest.mark.parametrize(("statement", "expected"), WRONG_ARRAYS)
def test_an_array_of_a_field_must_fit_its_place(made: Made, statement: str, expected: str) -> None:
    (found,) = check(made, change, statement, "execrows")
    assert (found.kind, found.expected) == ("parameter", expected)


def test_a_field_that_may_be_null_where_null_is_refused_is_found(made: Made) -> None:
    statement = "insert into teams (name) select * from unnest(:changes.motto::text[]) as motto".replace(
        "*", "motto"
    )
    (found,) = check(made, change, statement, "execrows")
    assert (found.kind, found.found) == ("null-parameter", "teams.name refuses null")
    assert found.expected == "changes.motto may be null, as its type says"
