"""Snippets: SQL that is written once and put into statements, before their parameters get numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc.check.findings import find, find_parameter, find_position
from svc.check.source import find_stars, find_unused_snippets
from svc.postgres.statements import Query, QueryError, load, read_queries

MADE = Path("made.sql")


def read(text: str, others: Mapping[str, str] | None = None) -> dict[str, Query]:
    """Read a file's text, beside other files."""
    texts = {Path(file): text for file, text in (others or {}).items()}
    return read_queries(text, MADE, texts.get)


def read_one(statement: str, snippets: str = "", others: Mapping[str, str] | None = None) -> Query:
    """Read a statement, which begins on line 2, with the snippets below it."""
    (query,) = read(f"-- name: made :many\n{statement};\n{snippets}", others).values()
    return query


def test_a_snippet_is_put_in_as_it_is() -> None:
    snippets = "-- snippet: columns\n-- What it is for,\n-- in two lines.\nid,\n    name\n\n-- The end.\n"
    query = read_one("select {columns}\nfrom pairs", snippets)
    assert query.sql == query.source == "select id,\n    name\nfrom pairs"
    assert (query.name, query.line, query.path) == ("made", 1, MADE)


SNIPPETS = """
-- snippet: a
:x + :y
-- snippet: b
:y, {a}
-- snippet: c
f({b}, {a})
-- snippet: text
'{a} :x', "{a}" -- {a}
, $q$ {a} $q$ /* {a} /* {b} */ {c} */, E'\\'{a}'
-- snippet: commented
1 -- what follows is code
"""
EXPANDED = [
    ("select {a}", "select $1 + $2", "x y"),
    ("select :y, {a}, :x", "select $1, $2 + $1, $2", "y x"),
    ("select {b}", "select $1, $2 + $1", "y x"),
    ("select {c}, :z, {a}", "select f($1, $2 + $1, $2 + $1), $3, $2 + $1", "y x z"),
    ("select {made.b}", "select $1, $2 + $1", "y x"),
    ("select '{a}', \"{b}\", $${c}$$, -- {a}\n1", "select '{a}', \"{b}\", $${c}$$, -- {a}\n1", ""),
    (
        "select {text}",
        "select '{a} :x', \"{a}\" -- {a}\n, $q$ {a} $q$ /* {a} /* {b} */ {c} */, E'\\'{a}'",
        "",
    ),
    ("select {commented}, 2", "select 1, 2", ""),
    ("select '{}'::text[], {a}", "select '{}'::text[], $1 + $2", "x y"),
    ("select { a }, {}, {A}, {a.b.c}", "select { a }, {}, {A}, {a.b.c}", ""),
]


@pytest.mark.parametrize(("statement", "sql", "parameters"), EXPANDED)
def test_snippets_are_put_in_before_parameters_get_numbers(statement: str, sql: str, parameters: str) -> None:
    query = read_one(statement, SNIPPETS)
    assert (query.sql, query.parameters) == (sql, tuple(parameters.split()))


def test_a_snippet_of_another_file_means_the_snippets_of_that_file() -> None:
    others = {"users.sql": "-- snippet: columns\n{id}, name\n-- snippet: id\nid\n-- name: broken\n"}
    query = read_one("select {users.columns}, {id}", "-- snippet: id\nmine", others)
    assert query.sql == "select id, name, mine"


def test_files_on_disk_see_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svc.postgres.statements.find_folder", lambda _: tmp_path)
    (tmp_path / "snippet_user.sql").write_text("-- name: q :one\nselect {snippet_owner.a};")
    (tmp_path / "snippet_owner.sql").write_text("-- snippet: a\n1 as n")
    assert load("snippet_user.sql")["q"].sql == "select 1 as n"


def test_what_writes_in_a_snippet_makes_its_statement_write() -> None:
    snippets = "-- snippet: locking\nfor update\n-- snippet: said\n'for update'"
    assert not read_one("select 1 {locking}", snippets).reads
    assert read_one("select {said}", snippets).reads


USE = "-- name: q :one\nselect\n    {a};\n"
WRONG = [  # a text, and what is said of it
    ("-- name: q :one\nselect\n    {a},\n  {b.a};", [
        "made.sql:3 q: expected a snippet {a} in made.sql, found none",
        "made.sql:4 q: expected a snippet {a} in b.sql, found none",
    ]),
    ("-- snippet: a\n1,\n{b}\n" + USE, ["made.sql:3 {a}: expected a snippet {b} in made.sql, found none"]),
    ("-- snippet: a\n1,\n{a}\n" + USE,
     ["made.sql:3 {a}: expected a snippet that does not use itself, found {a} → {a}"]),
    ("-- snippet: a\n1, {b}\n-- snippet: b\n2, {a}\n", [
        "made.sql:4 {b}: expected a snippet that does not use itself, found {a} → {b} → {a}",
        "made.sql:2 {a}: expected a snippet that does not use itself, found {b} → {a} → {b}",
    ]),
    ("-- snippet: a\n1\n-- snippet: a\n2\n" + USE,
     ["made.sql:3 {a}: expected one snippet of this name, found two"]),
    ("-- snippet: a\n-- Nothing.\n\n-- Really.\n", ["made.sql:1 {a}: expected the text of a snippet, found none"]),
    ("-- snippet: a\n\n1 as n;\n-- The end.\n",
     ["made.sql:3 {a}: expected a snippet without a semicolon, found ;"]),
    ("-- snippet: a :one\n1 as n\n", ["made.sql:1 -: expected -- snippet: columns, found a :one"]),
    ("-- snippet:\n1 as n\n", ["made.sql:1 -: expected -- snippet: columns, found no name"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_wrong_with_a_snippet_is_told_with_its_line(text: str, said: list[str]) -> None:
    with pytest.raises(QueryError) as caught:
        read(text, {"b.sql": "-- name: a :one\nselect 1;"})
    assert str(caught.value).splitlines() == said


def test_a_circle_through_another_file_is_told_in_that_file() -> None:
    with pytest.raises(QueryError, match=r"^b\.sql:2 \{b\}: .* found \{a\} → \{b\} → \{a\}$"):
        read("-- snippet: a\n{b.b}\n" + USE, {"b.sql": "-- snippet: b\n{made.a}"})


def test_a_snippet_that_nobody_uses_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text(f"-- snippet: used\n1\n-- snippet: a\n'{{b}}'\n-- snippet: b\n2\n{USE}")
    (tmp_path / "c.sql").write_text("-- snippet: a\n{a.used}\n-- snippet: far\n1\n")
    (tmp_path / "d.sql").write_text("-- name: q :one\nselect {c.far};")
    found = find_unused_snippets(tmp_path)
    assert [(each.kind, Path(each.file).name, each.line, each.query) for each in found] == [
        ("unused", "a.sql", 5, "{b}"),
        ("unused", "c.sql", 1, "{a}"),
    ]


OTHERS = {"users.sql": "-- A file.\n\n-- snippet: columns\n-- Some.\nid,\n    u.*, :size\n"}
PLACES = [  # a statement that uses {here} and {users.columns}, a text in it, and where that is written
    ("select {here}", "name", ("made.sql", 5, 10, "    :id, name")),
    ("select {here}, wrong", "wrong", ("made.sql", 2, 16, "select {here}, wrong")),
    ("select {users.columns}\nfrom {here}", "u.*", ("users.sql", 6, 5, "    u.*, :size")),
    ("select {users.columns}\nfrom {here}", "from", ("made.sql", 3, 1, "from {here}")),
    ("select :id, {here}, :b", "select", ("made.sql", 2, 1, "select :id, {here}, :b")),
]


@pytest.mark.parametrize(("statement", "text", "place"), PLACES)
def test_a_finding_points_to_where_the_text_is_written(
    statement: str, text: str, place: tuple[str, int, int, str]
) -> None:
    above = "\n" * (1 - statement.count("\n"))
    query = read_one(statement, f"{above}-- snippet: here\n    :id, name\n", OTHERS)
    for at in (query.source.index(text), find_position(query, query.sql.index(text) + 1)):
        found = find(query, "sql", "", "", at)
        assert (found.file, found.line, found.column, found.excerpt) == place
        assert found.query == "made"


def test_a_parameter_and_a_star_are_found_in_their_snippets() -> None:
    query = read_one("select {users.columns} from users u", others=OTHERS)
    (star,) = find_stars(query)
    assert (star.file, star.line, star.column) == ("users.sql", 6, 7)
    found = find(query, "parameter", "", "", find_parameter(query, "size"))
    assert (found.file, found.line, found.column) == ("users.sql", 6, 10)


def test_an_end_that_is_in_no_snippet_is_the_end_of_the_statement() -> None:
    query = read_one("select {users.columns}", others=OTHERS)
    found = find(query, "sql", "", "", find_position(query, len(query.sql) + 1))
    assert (found.file, found.line, found.column) == ("made.sql", 2, 23)


class Atom(NamedTuple):
    """A part of a text: a parameter or a snippet by its name, or else a text with neither of them."""

    kind: Literal["text", "parameter", "snippet"]
    text: str


class Written(NamedTuple):
    """A part of a text that uses no snippet, and where it stands: the file, the line, the column."""

    atom: Atom
    place: tuple[str, int, int]


NAMES = "abcd"
PARAMETERS = st.sampled_from(["x", "y.z", "long_name", "a"]).map(lambda name: Atom("parameter", name))
PLAIN = st.sampled_from(
    ["::int", "x", "\n", "\n\n  ", "'{a} :z'", '"{b}"', "-- {c} :z;\n", "/* {a} */", "$$ :z {b} $$", "é→", "{}", "("]
)  # fmt: skip
TEXTS = PLAIN.map(lambda text: Atom("text", text))


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, list[Atom]]:
    """Make snippets, each of which may use those before it, and under an empty name a statement."""
    made: dict[str, list[Atom]] = {}
    for name in (*NAMES, ""):
        uses = [st.sampled_from([Atom("snippet", used) for used in made])] if made else []
        drawn = draw(st.lists(st.one_of(TEXTS, PARAMETERS, *uses), max_size=6))
        made[name] = [Atom("text", "begin"), *drawn, Atom("text", "end")]
    return made


class Folder:
    """Files with these snippets: some of them in other.sql, the rest and the statement in made.sql."""

    def __init__(self, bodies: Mapping[str, list[Atom]], elsewhere: set[str]) -> None:
        self.elsewhere = elsewhere
        self.files = {"made.sql": "", "other.sql": ""}
        self.flat: dict[str, list[Written]] = {}
        for name, atoms in bodies.items():
            self._write(name, atoms)

    def _find_file(self, name: str) -> str:
        return "other.sql" if name in self.elsewhere else "made.sql"

    def _write(self, name: str, atoms: list[Atom]) -> None:
        """Write a snippet or the statement; those that it uses are written already."""
        file = self._find_file(name)
        text = self.files[file] + (f"-- snippet: {name}\n-- Doc.\n" if name else "-- name: q :many\n")
        flat: list[Written] = []
        for atom in atoms:
            if atom.kind == "snippet":
                other = self._find_file(atom.text)
                text += f"{{{atom.text}}} " if other == file else f"{{{other[:-4]}.{atom.text}}} "
                flat += self.flat[atom.text]
            else:
                place = file, text.count("\n") + 1, len(text) - text.rfind("\n")
                flat.append(Written(atom, place))
                text += f":{atom.text} " if atom.kind == "parameter" else f"{atom.text} "
        self.files[file] = text + ("\n\n-- A comment.\n" if name else ";")
        self.flat[name] = flat


@given(bodies(), st.sets(st.sampled_from(NAMES)))
def test_any_snippets_come_out_as_if_they_had_been_written_out(
    bodies: Mapping[str, list[Atom]], elsewhere: set[str]
) -> None:
    """Each parameter has its number, and each part the place where it was written, in either file."""
    folder = Folder(bodies, elsewhere)
    flat = folder.flat[""]
    names = [*dict.fromkeys(atom.text for atom, _ in flat if atom.kind == "parameter")]
    query = read(folder.files["made.sql"], folder.files)["q"]
    assert query.parameters == tuple(names)
    parts: list[str] = []
    source = sql = 0
    for atom, place in flat:
        named = atom.kind == "parameter"
        written = f":{atom.text}" if named else atom.text
        sent = f"${names.index(atom.text) + 1}" if named else atom.text
        parts.append(written)
        source = query.source.index(written, source)
        sql = query.sql.index(sent, sql)
        for at in (source, find_position(query, sql + 1)):
            found = find(query, "sql", "", "", at)
            assert (found.file, found.line, found.column) == place
        source, sql = source + len(written), sql + len(sent)
    assert "".join(query.source.split()) == "".join("".join(parts).split())
