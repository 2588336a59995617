"""The query contract: what the loader reads, what the binder refuses, what a bound query does."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
from msgspec import UNSET, Struct, UnsetType

from svc.config import Config
from svc.postgres import queries
from svc.postgres.errors import ConstraintError
from svc.postgres.pool import Database
from svc.postgres.queries import Queries, read_signature
from svc.postgres.statements import QueryError, load

T = TypeVar("T")
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of queries and gives its name: each has its own, because files are cached by name."""
    monkeypatch.setattr("svc.postgres.statements.find_folder", lambda _: tmp_path)

    def write(text: str, name: str = f"{tmp_path.name}.sql") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


def run(config: Config, use: Callable[[Database], Awaitable[T]]) -> T:
    """Runs `use` with a database and closes it."""

    async def main() -> T:
        database = Database(config)
        try:
            return await use(database)
        finally:
            await database.close()

    return asyncio.run(main())


class Pair(Struct, frozen=True):
    id: int
    name: str | None


class Change(Struct, frozen=True):
    name: str | None | UnsetType = UNSET
    size: int | UnsetType = UNSET


FILE = """
-- name: get_pair :one
-- What it is for,
-- in two lines.
select id, name from pairs where id = :id;

-- name: delete_pairs :execrows
-- Another.
delete from pairs
where name = :name or id = :id or name is distinct from :name;
-- The end.
"""


def test_a_file_is_read_query_by_query(write: Write) -> None:
    file = write(FILE)
    get, delete = load(file).values()
    assert (str(get), get.kind, get.parameters) == (f"{file}:2 get_pair", "one", ("id",))
    assert get.doc == "What it is for, in two lines."
    assert get.sql == "select id, name from pairs where id = $1"
    assert (str(delete), delete.kind) == (f"{file}:7 delete_pairs", "execrows")
    assert delete.parameters == ("name", "id")
    assert delete.sql == "delete from pairs\nwhere name = $1 or id = $2 or name is distinct from $1"


@pytest.mark.parametrize(
    ("statement", "sql", "parameters"),
    [
        ("select :a, :b, :a, :c", "select $1, $2, $1, $3", ("a", "b", "c")),
        ("select :a::int, :b :: text, 1::text", "select $1::int, $2 :: text, 1::text", ("a", "b")),
        ("select ':a', 'it''s :b; ', :c", "select ':a', 'it''s :b; ', $1", ("c",)),
        ("""select ":a;", "x"":b", :c""", """select ":a;", "x"":b", $1""", ("c",)),
        ("select 1 -- :a; it's\n, :b", "select 1 -- :a; it's\n, $1", ("b",)),
        ("select 1 /* :a; it's\n */, :b", "select 1 /* :a; it's\n */, $1", ("b",)),
        ("select 1 /* /* :a */ :b; */, :c", "select 1 /* /* :a */ :b; */, $1", ("c",)),
        ("select $x$ :a $$ ; $x$, :b", "select $x$ :a $$ ; $x$, $1", ("b",)),
        (r"select E'it\'s :a; ', :b", r"select E'it\'s :a; ', $1", ("b",)),
        ("select f(x := :a), y[1:2]", "select f(x := $1), y[1:2]", ("a",)),
        ("select :new.a, :new.b, :new.a, :c", "select $1, $2, $1, $3", ("new.a", "new.b", "c")),
        ("select (:a).b, (:a_1)", "select ($1).b, ($2)", ("a", "a_1")),
        ("select a[1:n], a[i:n], a[f(1):n], a[:n]", "select a[1:n], a[i:n], a[f(1):n], a[$1]", ("n",)),
        ("select json_object('a':b, 'c' : d, \"e\":f)", "select json_object('a':b, 'c' : d, \"e\":f)", ()),
        ("select :userId, :Name, :New.Name", "select $1, $2, $3", ("userId", "Name", "New.Name")),
        (
            f"select {'/* :a ' * 30}; it's{' */' * 30}, :b",
            f"select {'/* :a ' * 30}; it's{' */' * 30}, $1",
            ("b",),
        ),
    ],
)
def test_parameters_get_numbers_and_nothing_else_changes(
    write: Write, statement: str, sql: str, parameters: tuple[str, ...]
) -> None:
    query = load(write(f"-- name: q :many\n-- Doc.\n{statement};\n"))["q"]
    assert (query.sql, query.parameters) == (sql, parameters)


def test_a_header_may_be_a_comment_of_the_other_kind(write: Write) -> None:
    text = "/* name: q :one */\n-- Doc.\nselect 1 as x;\n/* name: r :exec */\nselect 2;\n"
    assert [(q.name, q.kind, q.sql) for q in load(write(text)).values()] == [
        ("q", "one", "select 1 as x"),
        ("r", "exec", "select 2"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-- name: q :one\n--@hot\nselect 1;\n", "expected -- @hot, with one blank, found --@hot"),
        ("-- name: q :one\n--  @not_null: x\nselect 1;\n", "with one blank, found --  @not_null: x"),
        (
            "-- name: q :copyfrom\nselect 1;\n",
            r"q: expected -- name: .*, found :copyfrom, which is not offered",
        ),
    ],
)
def test_what_is_nearly_right_is_named(write: Write, text: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        load(write(text))


@pytest.mark.parametrize("end", ["", "\n", " -- done; really\n", "\n/* done; really */\n", "\n-- a\n\n-- b"])
def test_comments_may_follow_a_statement(write: Write, end: str) -> None:
    assert load(write(f"-- name: q :one\n-- Doc.\nselect 1 as x;{end}"))["q"].sql == "select 1 as x"


@pytest.mark.parametrize(
    "text",
    [
        "-- name: q :one\n-- Doc.\nselect 1 as x\n",
        "-- name: q :one\n-- Doc.\nselect 1 as x; select 2 as x;\n",
        "-- name: q :one\n-- Doc.\n",
        "-- name: q :one\n-- Doc.\nselect ';' -- ;\n",
        "-- name: q :one\n-- Doc.\nselect 1;\n-- name: q :one\n-- Doc.\nselect 2;\n",
        "-- name: q :one\n-- Doc.\nselect 1;\n-- name: r :some\n-- Doc.\nselect 2;\n",
        "select 2 as x;\n-- name: q :one\n-- Doc.\nselect 1;\n",
        "-- name: r :some\n-- Doc.\nselect 2;\n-- name: q :one\n-- Doc.\nselect 1;\n",
        "select 1;\n",
    ],
)
def test_what_is_not_one_statement_under_one_header_is_refused(write: Write, text: str) -> None:
    file = write(text)
    with pytest.raises(QueryError, match=file):
        load(file)


WRONG = {
    "unsigned": (":one", "select 1", "signature in Wrong"),
    "lacking": (":one", "select :a::int + :b::int", " b "),
    "unused": (":one", "select :a::int", ":b "),
    "miscast": (":many", "select 1", ":many"),
    "rowless": (":exec", "select 1", ":exec"),
    "uncounted": (":execrows", "delete from pairs", ":execrows"),
    "unnested": (":exec", "delete from pairs where name = :change", ":change"),
    "fieldless": (":exec", "delete from pairs where name = :change.nme", "nme in Change"),
    "nested": (":exec", "delete from pairs where name = :name.first", ":name.first"),
}


class Wrong(Queries, Protocol, file="wrong.sql"):
    async def missing(self) -> int: ...
    async def lacking(self, *, a: int) -> int: ...
    async def unused(self, *, a: int, b: int) -> int: ...
    async def miscast(self) -> int: ...
    async def rowless(self) -> int: ...
    async def uncounted(self) -> None: ...
    async def unnested(self, *, change: Change) -> None: ...
    async def fieldless(self, *, change: Change) -> None: ...
    async def nested(self, *, name: str) -> None: ...


def test_every_disagreement_of_a_file_and_its_class_is_named_at_once(write: Write) -> None:
    write("".join(f"-- name: {name} {kind}\n{sql};\n" for name, (kind, sql, _) in WRONG.items()), "wrong.sql")
    with pytest.raises(QueryError) as caught:
        Wrong.pairs()
    *lines, missing = sorted(str(caught.value).splitlines(), key=lambda line: "missing" in line)
    assert "wrong.sql" in missing
    said = dict(line.split(": ", 1) for line in lines)
    assert said.keys() == {f"wrong.sql:{2 * n + 1} {name}" for n, name in enumerate(WRONG)}
    assert [place for place in said if WRONG[place.split()[1]][2] not in said[place]] == []


def test_binding_anew_tells_of_a_disagreement_anew(write: Write) -> None:
    class Lost(Queries, Protocol, file="lost.sql"):
        async def missing(self) -> int: ...

    write("", "lost.sql")
    for _ in range(2):
        with pytest.raises(QueryError, match="missing"):
            Lost.bind(Database(Config()))


def test_a_file_with_several_broken_queries_names_them_all(write: Write) -> None:
    bodies = {"unended": "select 1", "doubled": "select 1; select 2;", "void": ";"}
    file = write("".join(f"-- name: {name} :one\n{body}\n" for name, body in bodies.items()))
    with pytest.raises(QueryError) as caught:
        load(file)
    named = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert named == [f"{file}:1 unended", f"{file}:3 doubled", f"{file}:5 void"]


KINDS = """
-- name: add_pair :one
insert into pairs values (:id, :name) on conflict do nothing returning id;
-- name: get_pair :one
select id, name from pairs where id = :id;
-- name: get_name :one
select name from pairs where id = :id;
-- name: list_pairs :many
select id, name from pairs order by id;
-- name: list_ids :many
select id from pairs order by id;
-- name: change_pairs :execrows
update pairs set name = :change.name, id = id + coalesce(:change.size, 0) where id >= :least;
-- name: forget :exec
delete from pairs where id = :id;
-- name: forget_all :exec
truncate pairs;
"""


class PairQueries(Queries, Protocol, file="pairs.sql"):
    async def add_pair(self, *, id: int, name: str | None) -> int: ...
    async def get_pair(self, *, id: int) -> Pair | None: ...
    async def get_name(self, *, id: int) -> str | None: ...
    async def list_pairs(self) -> list[Pair]: ...
    async def list_ids(self) -> list[int]: ...
    async def change_pairs(self, *, change: Change, least: int) -> int: ...
    async def forget(self, *, id: int) -> None: ...
    async def forget_all(self) -> None: ...


@pytest.fixture
def pairs(config: Config, sql: Callable[..., object], write: Write) -> Config:
    """A database with three pairs."""
    write(KINDS, "pairs.sql")
    write("-- name: list_ids :many\n-- What there is.\nselect id from pairs;", "fresh.sql")
    sql("create table pairs (id int primary key, name text)")
    sql("insert into pairs values (1, 'one'), (2, null), (3, 'three')")
    return config


def call(config: Config, query: str, arguments: dict[str, object]) -> object:
    """Calls one query."""
    return run(config, lambda database: getattr(PairQueries.bind(database), query)(**arguments))


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("get_pair", {"id": 1}, Pair(1, "one")),
        ("get_pair", {"id": 4}, None),
        ("get_name", {"id": 2}, None),
        ("add_pair", {"id": 4, "name": None}, 4),
        ("list_pairs", {}, [Pair(1, "one"), Pair(2, None), Pair(3, "three")]),
        ("list_ids", {}, [1, 2, 3]),
        ("change_pairs", {"change": Change("new"), "least": 2}, 2),
        ("forget_all", {}, None),
    ],
)
def test_a_query_gives_what_its_kind_and_signature_say(
    pairs: Config, name: str, arguments: dict[str, object], result: object
) -> None:
    given = call(pairs, name, arguments)
    assert given == result
    assert type(given) is type(result)


@pytest.mark.parametrize(
    ("change", "row"),
    [(Change("new", 10), (13, "new")), (Change(UNSET, 10), (13, None)), (Change(None), (3, None))],
)
def test_a_field_that_is_unset_becomes_null(
    pairs: Config, sql: Callable[..., list[tuple[int, str]]], change: Change, row: tuple[int, str]
) -> None:
    assert call(pairs, "change_pairs", {"change": change, "least": 3}) == 1
    assert sql("select * from pairs where id >= 3") == [row]


def test_signatures_are_read_at_the_first_binding_alone(
    pairs: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fresh(Queries, Protocol, file="fresh.sql"):
        async def list_ids(self) -> list[int]:
            """Be in the file."""
            ...

    read: list[str] = []
    real = read_signature
    monkeypatch.setattr(queries, "read_signature", lambda *given: read.append(given[0]) or real(*given))
    one, other = Database(pairs), Database(pairs)
    bound = [Fresh.bind(each) for each in (one, other, one)]
    assert read == ["list_ids"]
    assert len({type(each) for each in bound}) == 1
    assert [vars(each) for each in bound] == [{"_executor": each} for each in (one, other, one)]
    assert bound[0].list_ids.__doc__ == "What there is."


def test_a_row_that_its_signature_promises_must_be_there(pairs: Config) -> None:
    with pytest.raises(LookupError, match="add_pair"):
        call(pairs, "add_pair", {"id": 1, "name": "again"})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_pair", {"ident": 1}),
        ("list_ids", {"id": 1}),
        ("change_pairs", {"change": Change("new")}),
        ("change_pairs", {"change": Change("new"), "least": 1, "most": 2}),
    ],
)
def test_wrong_arguments_are_a_type_error(pairs: Config, name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=name):
        call(pairs, name, arguments)


def test_a_transaction_is_kept_when_it_ends_well(pairs: Config) -> None:
    async def use(database: Database) -> list[int]:
        async with database.transaction(PairQueries) as inside:
            await inside.forget(id=1)
            assert await inside.list_ids() == [2, 3]
            assert await PairQueries.bind(database).list_ids() == [1, 2, 3]
        return await PairQueries.bind(database).list_ids()

    assert run(pairs, use) == [2, 3]


async def fail_inside(database: Database, error: BaseException | None) -> None:
    """Changes two things in a transaction that then ends in `error`, or in one of the database's."""
    async with database.transaction(PairQueries) as inside:
        await inside.forget(id=3)
        await inside.add_pair(id=4, name="four")
        if error:
            raise error
        await inside.change_pairs(change=Change("new", 1), least=1)


@pytest.mark.parametrize("error", [RuntimeError(), asyncio.CancelledError(), KeyboardInterrupt(), None])
def test_a_transaction_is_rolled_back_by_an_exception(pairs: Config, error: BaseException | None) -> None:
    async def use(database: Database) -> list[int]:
        with pytest.raises(type(error) if error else ConstraintError):
            await fail_inside(database, error)
        return await PairQueries.bind(database).list_ids()

    assert run(pairs, use) == [1, 2, 3]
