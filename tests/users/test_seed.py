"""`svc seed`: all users or none, nothing left behind, and the progress on the terminal."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.http.resource import CommandError
from svc.migrations import rollback
from svc.postgres.errors import ConflictError
from svc.users.seed import PASSWORD, seed
from tests.support import CHECKOUT
from tests.support.command_line import SVC, Cli
from tests.support.seeds import ask, digest, fill
from tests.support.waiting import wait_for

Sql = Callable[..., list[tuple[Any, ...]]]


# All or none


def test_the_next_user_gets_the_next_id(config: Config, client: httpx.Client) -> None:
    fill(config, 20)
    body = {"email": "ada@example.com", "password": "correct horse", "referred_by": 20}
    assert client.post("/users", json=body).raise_for_status().json()["id"] == 21
    assert [user["id"] for user in client.get("/users").json()["users"]] == [*range(1, 22)]
    assert client.get("/health/ready").status_code == 200


def test_a_table_with_users_is_refused_and_left_alone(config: Config, users: list[Any], sql: Sql) -> None:
    before = digest(sql)
    with pytest.raises(CommandError, match="users already"):
        fill(config, 10)
    assert digest(sql) == before
    sql("delete from users")
    fill(config, 10)
    assert ask(sql, "array_agg(id order by id)") == [*range(1, 11)]


def test_a_user_who_is_just_being_created_is_not_lost(config: Config, sql: Sql) -> None:
    waiting = "select 1 from pg_locks where not granted and relation = 'users'::regclass"
    sql("begin; insert into users (email, hashed_password) values ('ada@example.com', '!')")
    with ThreadPoolExecutor() as thread:
        filling = thread.submit(fill, config, 10)
        wait_for(lambda: sql(waiting))
        sql("commit")
        with pytest.raises(CommandError, match="users already"):
            filling.result(timeout=10)
    assert ask(sql, "array_agg(email)") == ["ada@example.com"]


def test_of_two_at_once_the_second_is_refused(config: Config, sql: Sql) -> None:
    async def both() -> list[Any]:
        return await asyncio.gather(seed(config, 500, 1), seed(config, 500, 1), return_exceptions=True)

    assert {type(result) for result in asyncio.run(both())} == {type(None), CommandError}
    assert ask(sql, "count(*)") == 500


def test_a_transaction_in_the_way_is_not_waited_for_without_end(
    config: Config, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svc.users.seed.LOCK_MILLISECONDS", 100)
    sql("begin; select from users")
    with pytest.raises(ConflictError):
        fill(config, 10)


def test_a_schema_that_is_behind_is_refused(config: Config, empty_url: DatabaseUrl, tmp_path: Path) -> None:
    (last,) = asyncio.run(rollback(config, 1))
    with pytest.raises(CommandError, match=f"{last} is pending; run `svc migrate`"):
        fill(config, 10)
    complaint = Cli(tmp_path, DATABASE_URL=empty_url).run("seed", "10", code=1)
    assert "0002_create_users is pending" in complaint


REFERRED_TO = "select 1 from pg_constraint where confrelid = 'users'::regclass and conrelid <> confrelid"


def assert_nothing_is_left(sql: Sql) -> None:
    """Neither rows nor their space on the disk, nor ids that are gone.

    The space stays until a vacuum where another table refers to users, which could not be truncated then.
    """
    assert sql("select count(*) from users") == [(0,)]
    assert sql(REFERRED_TO) or sql("select pg_relation_size('users')") == [(0,)]
    assert sql("select last_value, is_called from users_id_seq") == [(1, False)]


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, config: Config, sql: Sql) -> None:
    sql("alter table users add constraint unlucky check (id <> 1301)")
    complaint = Cli(tmp_path, DATABASE_URL=str(config.database_url)).run("seed", "2000", code=1)
    assert "60%, 1,200 of 2,000 users\nsvc: The database cannot be used: " in complaint
    assert_nothing_is_left(sql)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interruption_leaves_nothing(tmp_path: Path, config: Config, sql: Sql, number: int) -> None:
    cli = Cli(tmp_path, DATABASE_URL=str(config.database_url))
    process = cli.start("seed", "100000")
    output = tmp_path / "output"
    wait_for(lambda: "20%" in output.read_text() or process.poll() is not None)
    process.send_signal(number)
    assert process.wait(timeout=10) == {2: 130, 9: -9}.get(number, 143), output.read_text()
    assert "Traceback" not in output.read_text()
    assert_nothing_is_left(sql)
    assert "10 users in" in cli.run("seed", "10")


INTERRUPTED = """
import asyncio, os, signal
from functools import partial
from svc.__main__ import exit_quietly

async def work():
    os.kill(os.getpid(), signal.SIGTERM)
    print("this step is done whole")
    await asyncio.sleep(10)

signal.signal(signal.SIGTERM, partial(exit_quietly, 143))
asyncio.run(work())
"""


def test_a_signal_interrupts_no_step_of_the_event_loop() -> None:
    """A driver that is stopped in the middle of one takes its statement for answered."""
    ran = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=CHECKOUT, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (143, "this step is done whole\n", "")


# On the terminal


def test_each_tenth_is_told_where_there_is_no_terminal(tmp_path: Path, config: Config) -> None:
    ran = subprocess.run(
        [*SVC, "seed", "1234"],
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": str(config.database_url)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split("%")[0] for line in ran.stderr.splitlines()] == [str(n) for n in range(10, 101, 10)]
    assert ran.stdout.startswith("1,234 users in ")
    assert PASSWORD in ran.stdout


def test_a_terminal_shows_a_bar_that_grows(config: Config) -> None:
    ours, theirs = pty.openpty()
    subprocess.run(
        [*SVC, "seed", "500"],
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": str(config.database_url)},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        check=True,
    )
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    first, *bars = shown.split("\r")
    assert first == ""
    assert bars.pop() == "\n"
    assert [bar.count("#") for bar in bars] == [*range(0, 41, 4)]
    assert bars[-1].endswith("100%, 500 of 500 users")


def test_a_table_that_refers_to_users_is_no_hindrance(config: Config, sql: Sql) -> None:
    sql("create table remarks (user_id bigint references users (id))")
    sql("insert into remarks values (null)")
    asyncio.run(seed(config, 30, 7))
    assert sql("select count(*), max(id) from users") == [(30, 30)]
    assert sql("insert into users (email, hashed_password) values ('a@b.de', '') returning id") == [(31,)]
    assert sql("select count(*) from remarks") == [(1,)]
