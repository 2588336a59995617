"""The product's schema: each migration and its way back, and an answer for each constraint."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svc.config import find_folder
from svc.database_url import DatabaseUrl
from svc.migrations import migrate, rollback
from tests.support import CONSTRAINTS, make_config
from tests.support.schemas import read_schema

Sql = Callable[..., list[tuple[Any, ...]]]

IDENTITIES = """
select conname from pg_constraint join pg_attribute on attrelid = conrelid and attnum = any(conkey)
where contype = 'p' and attidentity = 'a'
"""
"""Keys of ids that the database alone makes."""

UNIQUE_AND_SUCH = """
select conname, conrelid::regclass::text from pg_constraint
where contype in ('p', 'u', 'f', 'c', 'x') and connamespace = 'public'::regnamespace
union
select relname, indrelid::regclass::text from pg_index join pg_class on oid = indexrelid
where indisunique and relnamespace = 'public'::regnamespace
"""


def test_every_constraint_that_a_request_can_break_has_its_answer(sql: Sql) -> None:
    ours = {name for name, table in sql(UNIQUE_AND_SUCH) if "yoyo" not in table}
    assert {"users_email_key", "users_referred_by_fkey", "users_profile_is_object"} <= ours
    made_here = {name for (name,) in sql(IDENTITIES)}
    assert {"users_pkey", "api_keys_pkey"} <= made_here
    assert ours == CONSTRAINTS.keys() | made_here
    assert not CONSTRAINTS.keys() & made_here


def test_every_migration_has_a_number_of_its_own_and_a_way_back() -> None:
    names = {path.name for path in find_folder("migrations").iterdir()}
    ups = {name for name in names if not name.endswith(".rollback.sql")}
    assert names - ups == {name.replace(".sql", ".rollback.sql") for name in ups}
    assert len({int(name[:4]) for name in ups}) == len(ups)


def test_every_migration_goes_there_and_back_and_there_again(
    empty_url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = make_config(empty_url)
    folder = shutil.copytree(find_folder("migrations"), tmp_path / "migrations")
    monkeypatch.setattr("svc.migrations.find_folder", lambda _: folder)
    files = sorted(path for path in folder.iterdir() if not path.name.endswith(".rollback.sql"))
    for path in files:
        path.rename(path.with_suffix(".later"))
    steps = [read_schema(empty)]
    for path in files:
        path.with_suffix(".later").rename(path)
        assert asyncio.run(migrate(empty)) == [path.stem]
        steps.append(read_schema(empty))
    for path, before in zip(files[::-1], steps[-2::-1], strict=True):
        assert asyncio.run(rollback(empty, 1)) == [path.stem]
        assert read_schema(empty) == before
    assert asyncio.run(migrate(empty)) == [path.stem for path in files]
    assert read_schema(empty) == steps[-1]
    assert len(steps[-1]) > 30
