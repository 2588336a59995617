"""What `svc check` finds in a snippet is told where the snippet stands, and of the release that it is of."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from msgspec import Struct

from svc.check.findings import Finding
from svc.check.prove import Proof, read_schema
from svc.check.rollout import check_rollout, read_release
from svc.check.scratch import connect
from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.postgres.queries import Signature
from svc.postgres.statements import read_queries
from tests.support import make_config, skip_before_18

MADE, OTHER = Path("made.sql"), Path("other.sql")

SNIPPETS = """
-- snippet: here
-- Of this file.
where id = :id
  and {}
"""
OTHERS = """-- A file of snippets.

-- snippet: columns
id, {}
"""


class Row(Struct):
    id: int
    name: str


def prove(url: DatabaseUrl, here: str, there: str) -> list[Finding]:
    """Prove a statement with a snippet of its own file and one of another."""
    skip_before_18(url)
    text = "-- name: made :many\nselect {other.columns} from api_keys {here};\n" + SNIPPETS.format(here)
    (query,) = read_queries(text, MADE, {OTHER: OTHERS.format(there)}.get).values()
    signature = Signature("made", {"id": int, "note": int}, Row, True, False)

    async def run() -> list[Finding]:
        connection = await connect(make_config(url))
        try:
            return await Proof(connection, await read_schema(connection), query, signature).run()
        finally:
            await connection.close()

    return asyncio.run(run())


PLACES = [  # what the snippets hold, the kind of what is found, and where
    ("nmae = :note", "name", ("sql", "made.sql", 7, 7, "  and nmae = :note")),
    ("name = :note", "nmae", ("sql", "other.sql", 4, 5, "id, nmae")),
    ("name = :note", "name", ("parameter", "made.sql", 7, 14, "  and name = :note")),
    ("id = :note", "id as name", ("column", "other.sql", 4, 11, "id, id as name")),
    ("id = :note", "null as name", ("nullability", "other.sql", 4, 13, "id, null as name")),
    ("id = :note", "encode(key_hash, 'hex') as name", ("secret", "other.sql", 4, 12, None)),
]


@pytest.mark.parametrize(("here", "there", "place"), PLACES, ids=[place[0] for *_, place in PLACES])
def test_what_is_found_in_a_snippet_is_told_where_it_is_written(
    database_url: DatabaseUrl, here: str, there: str, place: tuple[str, str, int, int, str | None]
) -> None:
    found = {each.kind: each for each in prove(database_url, here, there)}
    kind, file, line, column, excerpt = place
    each = found[kind]
    assert (each.query, each.file, each.line, each.column) == ("made", file, line, column)
    assert excerpt in (None, each.excerpt)


def test_snippets_without_a_fault_are_proven(database_url: DatabaseUrl) -> None:
    assert prove(database_url, "id = :note", "name") == []


def commit(folder: Path, text: str) -> None:
    """Commit two files, of which one has the snippet that the other uses."""
    (folder / "queries").mkdir(exist_ok=True)
    (folder / "queries/a_snippets.sql").write_text(f"-- snippet: columns\n{text}\n")
    (folder / "queries/keys.sql").write_text("-- name: q :many\nselect {a_snippets.columns} from api_keys;")
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    for command in (["init"], ["add", "--all"], ["commit", "--message", "x"]):
        subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True)


def test_another_release_has_its_own_snippets(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svc.check.rollout.CHECKOUT", tmp_path)
    monkeypatch.setattr("svc.check.rollout.read_files", list)
    commit(tmp_path, "id, lost")
    commit(tmp_path, "id")
    old = read_release("HEAD~1")
    assert [query.sql for query in old.queries] == ["select id, lost from api_keys"]
    (found,) = asyncio.run(check_rollout(config, old, []))
    assert (found.kind, found.file, found.line, found.column) == (
        "rollout",
        "HEAD~1:queries/a_snippets.sql",
        2,
        5,
    )
