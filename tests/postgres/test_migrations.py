"""Migrations: there and back, refused when edited, and safe against a second run and a dead one."""

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from yoyo.backends import DatabaseBackend

from svc.config import Config, find_folder
from svc.database_url import DatabaseUrl
from svc.migrations import MigrationError, migrate, read_files, read_status, rollback, run_yoyo
from tests.support import CHECKOUT, NUMBERS, make_config, with_settings
from tests.support.schemas import count_tables, read_schema
from tests.support.things import TABLE
from tests.support.waiting import wait_for

CREATE_COLOURS = "create table colours (name text default 'none; it''s plain');"
FIRST = "0001_create_migration_checksums"
"""The migration of the machinery itself."""


@pytest.fixture
def empty(empty_url: DatabaseUrl) -> Config:
    """An empty database."""
    return make_config(empty_url)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that migrations are taken from: the machinery's own, and two that make things."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for name in (f"{FIRST}.sql", f"{FIRST}.rollback.sql"):
        shutil.copy(find_folder("migrations") / name, folder)
    add(folder, "0002_create_things", TABLE, "drop table things;")
    add(folder, "0003_create_colours", CREATE_COLOURS, "drop table colours;")
    monkeypatch.setattr("svc.migrations.find_folder", lambda _: folder)
    return folder


@pytest.fixture
def checkout(folder: Path) -> Path:
    """A checkout with these migrations, for processes."""
    for name in ("svc", "queries"):
        shutil.copytree(CHECKOUT / name, folder.parent / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder.parent


def add(folder: Path, name: str, up: str, down: str = "select 1;") -> Path:
    """One more migration."""
    (folder / f"{name}.rollback.sql").write_text(down, encoding="utf-8")
    path = folder / f"{name}.sql"
    path.write_text(up, encoding="utf-8")
    return path


async def roll_one_back(config: Config) -> list[str]:
    """`svc migrate --rollback 1`"""
    return await rollback(config, 1)


def states(config: Config) -> dict[str, str]:
    """What `svc migrate --status` has to say."""
    return {migration.id: migration.state for migration in asyncio.run(read_status(config))}


def test_status_names_every_state_and_changes_nothing(empty: Config, folder: Path) -> None:
    everything = "select relname::text from pg_class where relnamespace = 'public'::regnamespace"
    assert set(states(empty).values()) == {"pending"}
    assert read_schema(empty, everything) == []
    names = asyncio.run(migrate(empty))
    add(folder, "9998_pending", "select 1;")
    (folder / f"{names[-1]}.sql").unlink()
    (folder / f"{names[0]}.sql").write_text("select 1;")
    expected = dict.fromkeys(names, "applied") | {names[0]: "edited", names[-1]: "unknown"}
    assert states(empty) == expected | {"9998_pending": "pending"}


@pytest.mark.parametrize("run", [migrate, roll_one_back])
def test_an_edited_migration_is_refused_by_name(
    empty: Config, folder: Path, run: Callable[[Config], Any]
) -> None:
    first, second, *_ = asyncio.run(migrate(empty))
    before = read_schema(empty)
    add(folder, "9998_more", "create table more (id int);")
    (folder / f"{second}.sql").write_text("select 1;")
    with pytest.raises(MigrationError, match=second) as caught:
        asyncio.run(run(empty))
    assert first not in str(caught.value)
    assert read_schema(empty) == before


def test_line_ends_of_another_system_are_no_edit(empty: Config, folder: Path) -> None:
    asyncio.run(migrate(empty))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert asyncio.run(migrate(empty)) == []


def test_a_migration_without_a_way_back_is_refused_by_name(empty: Config, folder: Path) -> None:
    add(folder, "9998_one_way", "create table one_way (id int);")
    (folder / "9998_one_way.rollback.sql").unlink()
    with pytest.raises(MigrationError, match="9998_one_way"):
        asyncio.run(migrate(empty))
    assert count_tables(empty, "things") == 0


def test_rollback_takes_the_last_ones_back_newest_first(empty: Config) -> None:
    names = asyncio.run(migrate(empty))
    assert asyncio.run(rollback(empty, 2)) == names[:-3:-1]
    assert list(states(empty).values()) == ["applied"] * (len(names) - 2) + ["pending"] * 2
    assert asyncio.run(rollback(empty, 99)) == names[-3::-1]
    assert asyncio.run(migrate(empty)) == names


def test_a_migration_of_a_newer_release_is_left_alone(empty: Config, folder: Path) -> None:
    add(folder, "9998_newer", "create table newer (id int);", "drop table newer;")
    asyncio.run(migrate(empty))
    (folder / "9998_newer.sql").unlink()
    assert asyncio.run(migrate(empty)) == []
    with pytest.raises(MigrationError, match="9998_newer"):
        asyncio.run(rollback(empty, 1))
    assert count_tables(empty, "newer") == 1


def start(config: Config, checkout: Path) -> "subprocess.Popen[str]":
    """Start `svc migrate` as a process."""
    command, environ = [sys.executable, "-m", "svc", "migrate"], {"DATABASE_URL": str(config.database_url)}
    return subprocess.Popen(command, cwd=checkout, env=environ, text=True, stdout=subprocess.PIPE)


def test_of_processes_at_the_same_time_one_does_the_work(empty: Config, checkout: Path) -> None:
    answers = [process.communicate(timeout=60)[0] for process in [start(empty, checkout) for _ in range(3)]]
    applied = "".join(f"applied {name}\n" for name in read_files())
    assert sorted(answers) == [applied, "nothing to do\n", "nothing to do\n"]


def test_one_connection_is_enough(empty: Config) -> None:
    settings = {"pool_size": 1, "acquire_timeout": 0.5}
    assert asyncio.run(migrate(with_settings(empty, **settings))) == list(read_files())


def test_the_lock_row_of_a_killed_run_blocks_nobody(empty: Config, folder: Path) -> None:
    asyncio.run(migrate(empty))
    lock = "insert into yoyo_lock (locked, ctime, pid) values (1, now(), 4194304) returning 1"
    assert read_schema(empty, lock) == [(1,)]
    add(folder, "9998_more", "create table more (id int);")
    assert asyncio.run(migrate(empty)) == ["9998_more"]
    assert read_schema(empty, "select 1 from yoyo_lock") == []


def test_a_killed_run_blocks_nobody_and_leaves_nothing_half_done(
    empty: Config, folder: Path, checkout: Path
) -> None:
    add(folder, "9998_slow", "create table slow (id int); select pg_sleep(60);")
    process = start(empty, checkout)
    running = "select pid from pg_stat_activity where query ~ '^select pg_sleep'"
    wait_for(lambda: read_schema(empty, running) or process.poll() is not None)
    process.kill()
    process.communicate()
    read_schema(empty, running.replace("select pid", "select pg_terminate_backend(pid, 5000)"))
    assert states(empty)["9998_slow"] == "pending"
    add(folder, "9998_slow", "create table slow (id int);")
    assert asyncio.run(migrate(empty)) == ["9998_slow"]


def die_after_yoyo(*arguments: Any) -> None:
    """Apply migrations, and die before their checksums are written."""
    run_yoyo(*arguments)
    raise KeyboardInterrupt


def die_in_yoyo(patch: pytest.MonkeyPatch) -> None:
    """Have a run die behind a migration, before yoyo marks it."""
    for mark in ("mark_one", "unmark_one"):
        patch.setattr(DatabaseBackend, mark, die)


def die_behind_yoyo(patch: pytest.MonkeyPatch) -> None:
    """Have a run die behind yoyo's mark, before the checksum is written."""
    patch.setattr("svc.migrations.run_yoyo", die_after_yoyo)


@pytest.mark.parametrize("run", [migrate, roll_one_back])
@pytest.mark.parametrize("sabotage", [die_in_yoyo, die_behind_yoyo])
def test_a_run_that_dies_between_a_migration_and_its_marks_is_mended_by_the_next(
    empty: Config,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[[pytest.MonkeyPatch], None],
    run: Callable[[Config], Any],
) -> None:
    names = asyncio.run(migrate(empty))
    whole = read_schema(empty)
    if run is migrate:
        asyncio.run(rollback(empty, 1))
    with monkeypatch.context() as patch:
        sabotage(patch)
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(run(empty))
    assert asyncio.run(migrate(empty)) == names[-1:]
    assert read_schema(empty) == whole


def test_to_take_nothing_back_makes_nothing(empty: Config) -> None:
    assert asyncio.run(rollback(empty, 1)) == []
    assert count_tables(empty, "yoyo_lock") == 0


def die(*_: Any, **__: Any) -> None:
    """Die as by a signal."""
    raise KeyboardInterrupt


def test_what_a_migration_warns_of_is_said(
    empty: Config, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(folder, "9998_odd", "do $$ begin raise notice 'hush'; raise warning 'look: %', 7; end $$;")
    assert asyncio.run(migrate(empty))[-1] == "9998_odd"
    assert capsys.readouterr().err == "9998_odd: look: 7\n"


def test_a_migration_without_a_transaction_is_run_and_marked(empty: Config, folder: Path) -> None:
    up = "-- transactional: false\n\ncreate index concurrently if not exists odd on things (name);"
    add(folder, "9998_odd", up, "-- transactional: false\n\ndrop index concurrently if exists odd;")
    assert asyncio.run(migrate(empty))[-1] == "9998_odd"
    assert asyncio.run(rollback(empty, 1)) == ["9998_odd"]
    assert asyncio.run(migrate(empty)) == ["9998_odd"]


def test_limits_on_idle_and_long_transactions_do_not_end_a_run(
    empty: Config, folder: Path, admin: Callable[[str], None]
) -> None:
    name = str(empty.database_url).partition("?")[0].rpartition("/")[2]
    settings = ["idle_in_transaction_session_timeout = '1s'", "idle_session_timeout = '1s'"]
    if read_schema(empty, "select 1 from pg_settings where name = 'transaction_timeout'"):
        settings.append("transaction_timeout = '2s'")
    for setting in settings:
        admin(f"alter database {name} set {setting}")
    for number in range(5):
        add(folder, f"999{number}_slow", f"select pg_sleep(0.5); create table slow_{number} (id int);")
    assert asyncio.run(migrate(empty))[-1] == "9994_slow"
    assert asyncio.run(migrate(empty)) == []


def run_sql(config: Config, statements: str) -> None:
    """Run statements on a database."""
    with psycopg.connect(str(config.database_url), autocommit=True) as connection:
        connection.execute(statements.encode())


def test_a_run_waits_for_another_whatever_a_statement_may_take(
    empty: Config, admin: Callable[[str], None]
) -> None:
    name = str(empty.database_url).partition("?")[0].rpartition("/")[2]
    admin(f"alter database {name} set statement_timeout = '1s'")
    with psycopg.connect(str(empty.database_url), options="-c statement_timeout=0") as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('bareline migrations', 0))")
        threading.Timer(1.5, other.rollback).start()
        assert asyncio.run(migrate(empty))


def test_no_statement_is_prepared_that_a_pooler_would_lose(empty: Config, folder: Path) -> None:
    prepared = "if exists (select from pg_prepared_statements) then raise exception 'prepared'; end if;"
    for number in range(8):
        add(folder, f"999{number}_plain", f"do $$ begin {prepared} end $$;")
    assert asyncio.run(migrate(empty))[-1] == "9997_plain"
    assert len(asyncio.run(rollback(empty, 8))) == 8


PLACES = {
    "may make no tables in the schema public.*grant create on schema": "revoke create on schema public from public",
    "search_path is 'nowhere'": "alter role {role} set search_path = nowhere",
    "read-only": "alter role {role} set default_transaction_read_only = on",
}


@pytest.mark.parametrize("reason", PLACES)
def test_a_place_where_no_table_can_be_made_is_told(
    empty: Config, admin: Callable[[str], None], reason: str
) -> None:
    role = f"role_{next(NUMBERS)}"
    admin(f"create role {role} login")
    try:
        run_sql(empty, PLACES[reason].format(role=role))
        url = DatabaseUrl(str(empty.database_url).replace("bareline@", f"{role}@", 1))
        with pytest.raises(MigrationError, match=reason):
            asyncio.run(migrate(make_config(url)))
        assert asyncio.run(migrate(empty))
        run_sql(empty, f"grant select on all tables in schema public to {role}")
        if "search_path" not in reason:
            assert asyncio.run(migrate(make_config(url))) == []  # there is nothing to make
    finally:
        run_sql(empty, f"drop owned by {role}; drop role {role}")


def test_a_lost_checksum_is_mended_by_the_next_run(empty: Config) -> None:
    names = asyncio.run(migrate(empty))
    assert len(read_schema(empty, "delete from migration_checksums returning 1")) == len(names)
    assert asyncio.run(migrate(empty)) == names


HALF = "create table half (id int);"


@pytest.mark.parametrize(
    "broken",
    [f"{HALF} select 1 / 0;", f"{HALF} creat table half_too ();", f"-- depends: 0000_gone\n\n{HALF}"],
)
def test_a_migration_that_fails_is_named_and_leaves_nothing(empty: Config, folder: Path, broken: str) -> None:
    add(folder, "9997_fine", "create table fine (id int);")
    add(folder, "9998_broken", broken)
    with pytest.raises(MigrationError, match="9998_broken"):
        asyncio.run(migrate(empty))
    assert (count_tables(empty, "fine"), count_tables(empty, "half")) == (1, 0)
    assert list(states(empty).values())[-2:] == ["applied", "pending"]
    add(folder, "9998_broken", HALF)
    assert asyncio.run(migrate(empty)) == ["9998_broken"]


def test_a_rollback_that_fails_is_named_and_changes_nothing(empty: Config, folder: Path) -> None:
    add(folder, "9998_stuck", "create table stuck (id int);", "drop table stuck; drop table nothing;")
    asyncio.run(migrate(empty))
    with pytest.raises(MigrationError, match="9998_stuck"):
        asyncio.run(rollback(empty, 1))
    assert count_tables(empty, "stuck") == 1
    assert states(empty)["9998_stuck"] == "applied"


def test_migrations_are_applied_from_a_folder_of_any_name(
    empty: Config, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = folder.rename(folder.with_name("it's [1] * of? 100%"))
    monkeypatch.setattr("svc.migrations.find_folder", lambda _: odd)
    asyncio.run(migrate(empty))
    assert count_tables(empty, "things") == 1


TRICKY = """
-- 100% of it's done; really
create function double(x int) returns text language plpgsql as $$
declare y int := 2; -- it's
begin
    if x > 1 then y := 2 * x; end if;
    return format('%s; %s', y, 'it''s');
end;
$$;
create function one() returns int begin atomic select 2; select 1; end;
create table tricky (c text default 'a;b' check (c like '%;%'));
insert into tricky values (double(one() + 1)) -- :x $1 %s
"""


def test_sql_of_every_kind_reaches_the_server_unchanged(empty: Config, folder: Path) -> None:
    add(folder, "9997_tricky", TRICKY, "drop table tricky; drop function double, one;")
    add(folder, "9998_alone", "-- transactional: false\n\ncreate index concurrently on tricky (c);")
    asyncio.run(migrate(empty))
    assert read_schema(empty, "select c from tricky") == [("4; it's",)]
    assert asyncio.run(rollback(empty, 2)) == ["9998_alone", "9997_tricky"]
