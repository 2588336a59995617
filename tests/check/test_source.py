"""What `svc check` reads out of the Python source and the SQL files: no SQL elsewhere, no loose ends."""

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

from svc.check.findings import Finding
from svc.check.source import DRIVER, PACKAGE, check_module, check_source, check_transactions, find_stars
from svc.check.usage import find_unused
from svc.http.resource import collect_queries
from svc.postgres.statements import Query, read_queries
from tests.support import RESOURCES

QUERIES = collect_queries(RESOURCES, offline=True)
(REVEALER,) = (resource.revealer for resource in RESOURCES if resource.revealer)


def find_in(text: str, file: str = "extra.py") -> list[Finding]:
    """What is found in a module that need not exist."""
    return check_module(PACKAGE / file, [*ast.walk(ast.parse(text))])


def make_query(statement: str, name: str = "made") -> Query:
    (query,) = read_queries(f"-- name: {name} :many\n{statement};\n", Path("made.sql")).values()
    return query


def read_real() -> list[Query]:
    """The queries of the service itself."""
    return [query for queries in QUERIES for query, _ in queries.pairs()]


DRIVERS = ("asyncpg", "psycopg", "yoyo")

SNEAKING = {
    "a driver": "import asyncpg",
    "a part of a driver": "import asyncpg.pool as p",
    "one of several": "import os, psycopg",
    "a name of a driver": "from asyncpg import Connection",
    "a part's name": "from psycopg.rows import dict_row",
    "migrations": "from yoyo import get_backend",
    "a driver for types alone": "if TYPE_CHECKING: from asyncpg import Record",
    "a driver by its name": "importlib.import_module('asyncpg')",
    "text": "connection.execute('x')",
    "text, made on the spot": "connection.fetch(f'{verb} {table}')",
    "text in a variable": "row = connection.fetchrow(text)",
    "text, prepared": "connection.prepare(text)",
    "text, many times": "connection.executemany(text, rows)",
    "a cursor": "connection.cursor(text)",
    "a copy": "connection.copy_from_query(text, output=file)",
    "text, by way of a variable": "run = connection.execute",
    "text, by way of partial": "partial(connection.fetchval, text)",
    "a query made by hand": "Query(name='x', sql=text)",
    "a query of the module": "sql.Query('x')",
    "a query under another name": "from svc.postgres.queries import Query as Q",
    "a query changed by hand": "msgspec.structs.replace(query, sql=text)",
    "a file's text made by hand": "read_queries(text, path)",
    "a connection without a guard": "from svc.postgres.connection import QueryConnection as Plain",
    "the one of the check": "from svc.check.scratch import ScratchConnection",
    "the opening of the check's": "from svc.check.scratch import connect",
    "its module": "import svc.check.scratch as s",
    "a method by its name": "getattr(connection, 'fetch')(text)",
    "a class's method": "type(connection).__mro__[2]",
    "a class's method by its name": "getattr(getattr(kind, '__base__'), name)",
    "the opening of any": "connection.open_connection(config, kind)",
    "what the guard goes by": "statements.TEXTS[query] = text",
    "what it goes by, by its name": "getattr(statements, 'TEXTS')[query] = text",
    "the driver's insides": "connection._protocol.query(text, 1)",
    "the driver's insides by their name": "getattr(connection, '_execute')(text)",
    "a query changed in its place": "msgspec.structs.force_setattr(query, 'source', text)",
    "select": "x = 'select 1'",
    "select, loudly": "x = 'SELECT id FROM users'",
    "select in pieces": "x = 'sel' 'ect id from users'",
    "select in an f-string": "x = f'select {columns} from users'",
    "select with %": "x = 'select %s from users' % columns",
    "select with +": "x = 'select ' + columns",
    "select with format": "x = 'select {} from users'.format(columns)",
    "select with join": "x = ' '.join(['select', columns])",
    "insert": "x = f'insert into {table} values (1)'",
    "update": "x = 'update users set email = 1'",
    "update of any table": "x = f'update {table} set email = 1'",
    "delete": "x = f'delete from {table}'",
    "with": "x = 'with a as (select 1) table a'",
    "with recursive": "x = 'with recursive a as (select 1) table a'",
    "with columns": "x = 'with a(b) as (select 1) table a'",
    "truncate": "x = 'truncate users'",
    "a table": "x = 'create table a (b int)'",
    "an index": "x = 'create unique index a on b (c)'",
    "a function": "x = 'create or replace function a() returns int'",
    "behind a comment": "x = '-- all of them\\nselect 1'",
    "in parentheses": "x = '(select 1) union (select 2)'",
    "explain": "x = 'explain select 1'",
}


@pytest.mark.parametrize("text", SNEAKING.values(), ids=SNEAKING)
def test_sql_and_drivers_are_found_wherever_they_hide(text: str) -> None:
    found = find_in(f'"""A module."""\n\ndef f(x):\n    {text}\n')
    assert {(finding.kind, finding.line) for finding in found} == {("text", 4)}
    assert {(finding.file, finding.query) for finding in found} == {("svc/extra.py", "-")}


HARMLESS = {
    "a doc that begins with a verb of SQL": 'def f():\n    """Select a user."""',
    "a class's doc": 'class A:\n    """Create a user with a name."""',
    "a module's doc": '"""Drop all that is old, and more."""',
    "a help text": "parser.add_argument('name', help='create a key of this name')",
    "prose": "raise ValueError('Create an account first, and select one')",
    "a word": "x = 'selected', 'update', 'created at', 'drop'",
    "a function of that name": "names = select(migrations)",
    "a mapping": "x = options.get('name')",
    "a field of that name": "if query.cursor is None: cursor = query.cursor",
    "a bound query": "await users.get_user(id=1, with_profile=False)",
    "the contract": "await database.fetch_one(query, arguments)",
    "our own modules": "from svc.postgres.pool import Database\nimport asyncio, msgspec",
    "a module whose name is longer": "import asyncpgx",
    "a type": "def f(query: Query) -> Query: return query",
}


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_what_is_no_sql_is_left_alone(text: str) -> None:
    assert [(finding.line, finding.found) for finding in find_in(text)] == []


def test_even_a_file_with_the_driver_sends_only_what_a_sql_file_has() -> None:
    text = (
        "asyncpg.Connection.fetch(self, find_text(query), *arguments)\nstatement.fetch(*arguments)\n"
        "super().execute(query, **how)\nc.fetch(self, query.sql, *arguments)\nc.fetch('x')\nQuery()"
    )
    assert [finding.line for finding in find_in(text, "postgres/connection.py")] == [4, 5, 6]
    assert [finding.line for finding in find_in(text, "http/problems.py")] == [1, 2, 3, 4, 5, 6]


def test_a_new_file_of_the_check_is_no_exception() -> None:
    text = "import asyncpg\nconnection.execute(f'lock {table}')\nx = 'select 1'\n"
    assert [finding.line for finding in find_in(text, "check/extra.py")] == [1, 2, 3]


def test_the_list_of_files_with_a_driver_is_not_stale() -> None:
    for file in DRIVER:
        assert (PACKAGE / file).exists(), f"{file} is on the list and does not exist"
        assert imports_driver((PACKAGE / file).read_text()), f"{file} is on the list and has no driver"


def imports_driver(text: str) -> bool:
    """Whether a module imports a driver, perhaps by its name."""
    for node in ast.walk(ast.parse(text)):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            modules = [ast.literal_eval(node.args[0])]
        if any(module.split(".")[0] in DRIVERS for module in modules):
            return True
    return False


def test_the_service_itself_is_clean() -> None:
    assert [str(finding) for finding in check_source(read_real(), REVEALER)] == []


def test_a_query_that_nobody_calls_is_found_at_its_line() -> None:
    text = "-- The first.\n\n-- name: get_nothing :one\n-- Nobody's.\nselect 1 as one;\n"
    (query,) = read_queries(text, Path("made.sql")).values()
    (found,) = check_source([*read_real(), query], REVEALER)
    assert (found.kind, found.file, found.line, found.query) == ("unused", "made.sql", 3, "get_nothing")


def test_a_file_that_no_class_binds_is_found_query_by_query() -> None:
    real = read_real()
    left_out = [query for query in real if query.path.name == "api_keys.sql"]
    found = check_source([query for query in real if query not in left_out], REVEALER)
    assert places(found) == [("signature", "queries/api_keys.sql", q.line, q.name) for q in left_out]
    assert {finding.expected for finding in found} == {"a class with file='api_keys.sql'"}


def places(found: Sequence[Finding]) -> list[tuple[str, str, int, str]]:
    return [(finding.kind, finding.file, finding.line, finding.query) for finding in found]


# Statements with a mark below each star that takes all columns there are.
STARS = [
    ("select * from t", "       ^"),
    ("SELECT * FROM t", "       ^"),
    ("select\t*\tfrom t", "       ^"),
    ("select all * from t", "           ^"),
    ("select distinct * from t", "                ^"),
    ("select distinct on (a) * from t", "                       ^"),
    ("select t.* from t", "         ^"),
    ("select t . * from t", "           ^"),
    ('select "t".* from t', "           ^"),
    ("select (t).* from t", "           ^"),
    ("select a, * from t", "          ^"),
    ("select a,* from t", "         ^"),
    ("select * from t, (select * from u) v", "       ^                 ^"),
    ("select 1 union all select * from t", "                          ^"),
    ("with x as (select * from t) select a from x", "                  ^"),
    ("select /* a */ * from t", "               ^"),
    ("insert into t (a) select * from u", "                         ^"),
    ("insert into t (a) values (1) returning *", "                                       ^"),
    ("delete from t returning a, *", "                           ^"),
    ("update t set a = 1 returning new.*", "                                 ^"),
    ("select count(*) from t", ""),
    ("select count( * ), count(*) over () from t", ""),
    ("select a * b, a*b, t.a*u.b from t, u", ""),
    ("select 2 * a, (a) * 2, -a * (b), case when a then 1 end * 2 from t", ""),
    ("select :a * 2, :b.c * 2", ""),
    ("select sum(a) * 2 from t", ""),
    ("select '*', 'a, *', ' select * ' from t", ""),
    ("select $$ select * $$", ""),
    ("select a /* select * */ -- t.*\nfrom t", ""),
]


@pytest.mark.parametrize(("statement", "marks"), STARS, ids=[statement for statement, _ in STARS])
def test_a_star_for_all_columns_is_found_at_its_place(statement: str, marks: str) -> None:
    expected = [(2, index + 1) for index, mark in enumerate(marks) if mark == "^"]
    assert [(found.line, found.column) for found in find_stars(make_query(statement))] == expected


def test_a_star_far_down_is_found_at_its_line() -> None:
    (found,) = find_stars(make_query("select a /* a\n  b */,\n    b,\n    t.*\nfrom t"))
    assert (found.kind, found.line, found.column, found.excerpt) == ("column", 5, 7, "    t.*")


BESIDE = {
    "the pool's queries": "await self._users.get_user(id=1)",
    "another object's": "await make_row(await other.get_user(id=1))",
    "a reference to one": "run(self._users.get_user)",
}

INSIDE = {
    "the first of two": "await notes.get_user(id=1)",
    "the second of two": "await users.get_user(id=1)",
    "something that is no query": "await self._users.close()",
}


def find_beside(statement: str) -> list[str]:
    """What is found in a block of a transaction."""
    text = (
        f"async def f():\n    async with database.transaction(A, B) as (notes, users):\n        {statement}\n"
    )
    return [
        finding.found
        for finding in check_transactions(PACKAGE / "extra.py", [*ast.walk(ast.parse(text))], {"get_user"})
    ]


@pytest.mark.parametrize("statement", BESIDE.values(), ids=BESIDE)
def test_a_query_beside_the_transaction_that_it_stands_in_is_found(statement: str) -> None:
    (found,) = find_beside(statement)
    assert found.endswith(".get_user")


@pytest.mark.parametrize("statement", INSIDE.values(), ids=INSIDE)
def test_a_query_of_the_transaction_is_none_beside_it(statement: str) -> None:
    assert find_beside(statement) == []


QUERIES_OF_A_MODULE = """
class ThingQueries(Queries, Protocol, file="made.sql"):
    async def get(self) -> int: ...
"""

USES = {
    "an argument": "async def f(things: ThingQueries): await things.get()",
    "an argument that may be none": "async def f(things: ThingQueries | None): await things.get()",
    "a name in quotes": "async def f(things: 'ThingQueries'): await things.get()",
    "an attribute": "def f(self, things: ThingQueries):\n    self.t = things\n    return lambda: self.t.get()",
    "a bound class": "things = ThingQueries.bind(database)\nthings.get()",
    "a class bound by a service": "service.bind(ThingQueries).get()",
    "a transaction": "async def f():\n    async with d.transaction(ThingQueries) as things: things.get()",
    "one of several": "async def f():\n    async with d.transaction(A, ThingQueries) as (a, b): b.get()",
    "a method that is handed on": "def f(things: ThingQueries): return partial(run, things.get)",
    "a name of a name": "def f(things: ThingQueries):\n    other = things\n    return other.get",
}


@pytest.mark.parametrize("text", USES.values(), ids=USES)
def test_a_query_is_used_where_its_class_is_what_it_is_called_on(text: str) -> None:
    modules = [[*ast.walk(ast.parse(each))] for each in (QUERIES_OF_A_MODULE, text)]
    assert find_unused([make_query("select 1", "get")], modules) == []


@pytest.mark.parametrize(
    "text",
    [
        "options.get('name')",
        "def f(things: dict): return things.get",
        "def f(things: ThingQueries): return things, {}.get",
        "def f(others: OtherQueries): return others.get",
        "get()",
    ],
)
def test_another_thing_of_its_name_is_no_use_of_a_query(text: str) -> None:
    modules = [[*ast.walk(ast.parse(each))] for each in (QUERIES_OF_A_MODULE, text)]
    query = make_query("select 1", "get")
    assert find_unused([query], modules) == [query]
