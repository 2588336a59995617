"""`svc check` as a person or CI runs it: in a checkout of its own, which is edited for the purpose."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from svc.database_url import DatabaseUrl
from tests.support import CHECKOUT, TEMPLATE, at

Place = tuple[str, str, int, str]

IMPORT = [file for file in ("queries/user_import.sql",) if (CHECKOUT / file).exists()]
"""The file of the import, which may have been deleted."""


class Ran(NamedTuple):
    """A run of `svc check`, and the checkout it was run in."""

    checkout: Path
    code: int
    out: str
    err: str

    def find(self, *, warning: bool = False) -> list[Place]:
        """The kind, file, line and query of each error, or of each warning."""
        assert self.out.startswith("{"), f"no JSON, but {self.out}{self.err}"
        found: list[dict[str, Any]] = msgspec.json.decode(self.out)["findings"]
        wanted = [each for each in found if each.get("warning", False) is warning]
        return sorted((each["kind"], each["file"], each["line"], each["query"]) for each in wanted)

    def place(self, kind: str, file: str, query: str, text: str = "") -> Place:
        """The same for the last line with a text; without one, the query's header or its signature."""
        text = text or (f"-- name: {query} :" if file.endswith(".sql") else f"async def {query}(")
        lines = (self.checkout / file).read_text().split("\n")
        return kind, file, max(number for number, line in enumerate(lines, 1) if text in line), query


ON_A_SHARED_SERVER = """
import contextlib, os, sys
import svc.check.command
from svc.__main__ import main
from svc.config import Config
from svc.database_url import DatabaseUrl

config = Config(database_url=DatabaseUrl(os.environ.pop("SCRATCH_URL")), query_timeout=60)
svc.check.command.scratch_database = lambda: contextlib.nullcontext(config)
sys.exit(main())
"""
"""`svc check` in a new database, where it would make a new server: 1 of its 3 seconds of CPU."""


def check(checkout: Path, *arguments: str, alone: bool = False) -> Ran:
    """Runs the command; `alone` as everybody runs it, with a server of its own."""
    how = ["-m", "svc"] if alone else ["-c", ON_A_SHARED_SERVER]
    environ = {**os.environ, "SCRATCH_URL": (checkout / "scratch").read_text()}
    ran = subprocess.run(
        [sys.executable, *how, "check", *arguments],
        cwd=checkout,
        env={name: value for name, value in environ.items() if not (alone and name == "SCRATCH_URL")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Ran(checkout, ran.returncode, ran.stdout, ran.stderr)


def edit(file: Path, old: str, new: str) -> None:
    """Replaces a text that is there once."""
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has {text.count(old)} times: {old}"
    file.write_text(text.replace(old, new))


def append(file: Path, *lines: str) -> None:
    old = [file.read_text()] if file.exists() else []
    file.write_text("\n".join([*old, *lines, ""]))


def declare(checkout: Path, signature: str) -> None:
    """Adds a signature to ApiKeyQueries."""
    last = "    async def revoke_api_key(self, *, id: int) -> int: ...\n"
    edit(checkout / "svc/accounts/keys.py", last, f"{last}    async def {signature}: ...\n")


def release(checkout: Path, tag: str) -> None:
    """Commits all that is there."""
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    for command in (["init"], ["add", "--all"], ["commit", "--message", tag], ["tag", tag]):
        subprocess.run(["git", *who, *command], cwd=checkout, check=True, capture_output=True)


def add_migration(checkout: Path, name: str, apply: str, rollback: str) -> None:
    append(checkout / f"migrations/{name}.sql", apply)
    append(checkout / f"migrations/{name}.rollback.sql", rollback)


# What is done to a checkout before it is checked.


def mark_needlessly(checkout: Path) -> Ran:
    """No mistake: a warning, and nothing that was proven before."""
    (checkout / "queries/proven.json").unlink()
    header = "-- name: list_api_keys :many\n"
    edit(checkout / "queries/api_keys.sql", header, f"{header}-- @not_null: id\n")
    return check(checkout, "--json")


def lose_a_mark(checkout: Path) -> None:
    mark = "comment on column users.hashed_password is 'secret'"
    edit(checkout / "migrations/0002_create_users.sql", mark, mark.replace("secret", "secert"))


def change_a_default(checkout: Path) -> None:
    default = "is_active boolean not null default true"
    edit(checkout / "migrations/0002_create_users.sql", default, default.replace("true", "false"))


def accept_a_loss(checkout: Path) -> Ran:
    lose_a_mark(checkout)
    change_a_default(checkout)
    return check(checkout, "--json", "--accept")


def make_one_mistake(checkout: Path) -> Ran:
    edit(checkout / "queries/api_keys.sql", "select id, name, scopes,", "select id, name, scops,")
    return check(checkout, alone=True)


def make_many_mistakes(checkout: Path) -> Ran:
    """Of many kinds, most of them in files that have others."""
    keys, users = checkout / "queries/api_keys.sql", checkout / "queries/users.sql"
    lists = checkout / "queries/user_lists.sql"
    edit(keys, "select id, name, scopes,", "select id, name, scops,")
    append(keys, "-- name: count_keys :one", "-- New.", "select count(*) as n from api_keys;")
    append(keys, "-- name: get_user :one", "-- The second one.", "select count(*) as n from api_keys;")
    for signature in ("count_keys(self) -> int", "get_user(self) -> int", "no_query(self) -> int"):
        declare(checkout, signature)
    edit(checkout / "svc/accounts/keys.py", "    scopes: list[str]\n\n", "    rights: list[str]\n\n")
    append(users, "-- name: no_signature :one", "-- New.", "select 1 as n;")
    edit(lists, "-- name: count_users :one\n", "-- name: count_users :one\n-- @hot\n")
    deleting = "def delete_user(self, *, id: int"
    edit(checkout / "svc/users/handlers.py", f"{deleting}, versions: list[int] | None)", f"{deleting})")
    edit(checkout / "svc/users/handlers.py", "    user_id: int\n", "    user_id: int | None\n")
    edit(checkout / "svc/migrations.py", "    checksum: str\n\n", "    checksum: bytes\n\n")
    append(checkout / "svc/extra.py", "import asyncpg")
    lose_a_mark(checkout)
    change_a_default(checkout)
    return check(checkout, "--json")


def let_a_secret_out(checkout: Path) -> Ran:
    """Queries that serve users show the hash as the name."""
    names = "{row}, case when :with_profile then profile end as profile"
    shown = names.replace(
        "{row}",
        "id, email, hashed_password as display_name, is_active, to_rfc3339(created_at) as created_at, version",
    )
    edit(checkout / "queries/users.sql", names, shown)
    return check(checkout, "--json")


def make_files_unreadable(checkout: Path) -> Ran:
    append(checkout / "queries/api_keys.sql", "-- name: get_api_key :one", "-- The second one.", "select 1;")
    append(checkout / "queries/loose.sql", "select 1;")
    append(checkout / "queries/lonely.sql", "-- name: lonely :one", "-- New.", "select 1 as n;")
    (checkout / "queries/health.sql").unlink()
    return check(checkout, "--json")


def roll_out(checkout: Path, over: str) -> Ran:
    """A first release; a second that renames a column and asks for a new one; then what only adds things."""
    keys, users = checkout / "queries/api_keys.sql", checkout / "queries/users.sql"
    release(checkout, "first")
    rename = "alter table api_keys rename column {} to {};".format
    add_migration(checkout, "0901_rename", rename("scopes", "rights"), rename("rights", "scopes"))
    edit(
        keys, "insert into api_keys (name, key_hash, scopes,", "insert into api_keys (name, key_hash, rights,"
    )
    edit(keys, "select id, scopes\n", "select id, rights as scopes\n")
    edit(keys, "select id, name, scopes,", "select id, name, rights as scopes,")
    commands = checkout / "queries/key_commands.sql"
    commands.write_text(re.sub(r"(?<!:)\bscopes\b", "rights", commands.read_text()))
    table = "alter table idempotency_keys"
    add_migration(checkout, "0902_ask", f"{table} add made_by text not null;", f"{table} drop made_by;")
    edit(users, "insert into idempotency_keys (key_hash,", "insert into idempotency_keys (made_by, key_hash,")
    edit(users, "select :key.key_hash,", "select 'x', :key.key_hash,")
    default = "alter table users alter is_active set default {};".format
    add_migration(checkout, "0903_default", default("false"), default("true"))
    proven = checkout / "queries/proven.json"
    edit(proven, '"default of users.is_active","text":"true"', '"default of users.is_active","text":"false"')
    proven.write_text(re.sub(r"\bscopes\b", "rights", proven.read_text()))
    edit(proven, '"idempotency_keys":["key_hash"', '"idempotency_keys":["made_by","key_hash"')
    release(checkout, "second")
    add = "alter table users add note text; create index users_note_idx on users (note);"
    add += "create table remarks (id bigint primary key);"
    drop = "drop table remarks; alter table users drop note;"
    add_migration(checkout, "0904_add", add, drop)
    return check(checkout, "--json", "--against", over)


SCENARIOS = {
    "over the first release": partial(roll_out, over="first"),
    "over the second release": partial(roll_out, over="second"),
    "over nowhere": partial(roll_out, over="nowhere"),
    "over nothing": partial(roll_out, over=""),
    "a warning": mark_needlessly,
    "one mistake": make_one_mistake,
    "many mistakes": make_many_mistakes,
    "unreadable files": make_files_unreadable,
    "a secret let out": let_a_secret_out,
    "an accepted loss": accept_a_loss,
}
After = Callable[[str], Ran]


@pytest.fixture(scope="module")
def after(
    tmp_path_factory: pytest.TempPathFactory, server_url: DatabaseUrl, admin: Callable[[str], None]
) -> Iterator[After]:
    """What came of each scenario. Two are run at a time, since a check mostly waits."""

    def run(name: str) -> Ran:
        checkout = tmp_path_factory.mktemp("checkout")
        for folder in ("svc", "queries", "migrations"):
            shutil.copytree(
                CHECKOUT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(CHECKOUT / "pyproject.toml", checkout)
        (checkout / "scratch").write_text(at(server_url, databases[name]))
        return SCENARIOS[name](checkout)

    databases = {name: f"{TEMPLATE}_check_{number}" for number, name in enumerate(SCENARIOS)}
    for database in databases.values():
        admin(f"create database {database} template template0")
    with ThreadPoolExecutor(2) as threads:
        runs = {name: threads.submit(run, name) for name in SCENARIOS}
        yield lambda name: runs[name].result()
    for database in databases.values():
        admin(f"drop database if exists {database}_rollout with (force)")
        admin(f"drop database {database} with (force)")


def test_a_checkout_with_no_more_than_warnings_agrees(after: After) -> None:
    ran = after("a warning")
    assert (ran.code, ran.find()) == (0, [])
    assert ran.find(warning=True) == [
        ran.place("annotation", "queries/api_keys.sql", "list_api_keys", "select id, name")
    ]
    headers = [re.findall("^-- name:", file.read_text(), re.M) for file in CHECKOUT.glob("queries/*.sql")]
    report = msgspec.json.decode(ran.out)
    assert report["queries"] == sum(map(len, headers))
    assert report["migrations"] == len([*CHECKOUT.glob("migrations/*.rollback.sql")])
    assert report["structs"] > 10


def test_what_was_proven_is_written_down_and_is_what_this_checkout_has(after: After) -> None:
    written = after("a warning").checkout / "queries/proven.json"
    assert written.read_bytes() == (CHECKOUT / "queries/proven.json").read_bytes()


def test_one_mistake_is_told_once_with_its_place_and_the_line_itself(after: After) -> None:
    ran = after("one mistake")
    _, file, line, query = ran.place("", "queries/api_keys.sql", "list_api_keys", "scops")
    *told, verdict = ran.out.splitlines()
    assert ran.code == 1
    assert told == [
        f"{file}:{line}:18: error: {query}: sql",
        "  expected  a statement that prepares",
        '  found     42703 column "scops" does not exist',
        "  | select id, name, scops, created_at, expires_at, revoked_at",
        "  |                  ^",
    ]
    assert verdict.endswith(": 1 disagreements")


def test_all_mistakes_are_found_in_one_run_and_nothing_else(after: After) -> None:
    ran = after("many mistakes")
    keys, users = "queries/api_keys.sql", "queries/users.sql"
    expected = {
        ran.place("sql", keys, "list_api_keys", "scops"),
        ran.place("column", keys, "get_api_key"),
        ran.place("unused", keys, "count_keys"),
        ran.place("unused", keys, "get_user"),
        ran.place("signature", keys, "get_user"),
        ran.place("signature", "svc/accounts/keys.py", "no_query"),
        ran.place("signature", users, "no_signature"),
        ran.place("signature", users, "delete_user"),
        ran.place("plan", "queries/user_lists.sql", "count_users"),
        ran.place("column", "queries/migrations.sql", "list_checksums", "select migration_id, checksum"),
        ran.place("text", "svc/extra.py", "-", "import asyncpg"),
        ("secret", "queries/proven.json", 1, "-"),
        ran.place("drift", users, "create_user"),
        ran.place("drift", users, "create_user_once"),
        ran.place("drift", users, "create_users"),
        *(ran.place("drift", file, "import_users") for file in IMPORT),
    }
    found = set(ran.find())
    assert ran.code == 1
    assert sorted(expected - found) == [], "missed"
    assert sorted(found - expected) == [], "told in vain"
    loose = ran.place("nullability", users, "get_first_answer", "select user_id, email")
    assert ran.find(warning=True) == [loose]


def test_a_secret_that_a_query_gives_out_is_an_error_at_its_column(after: After) -> None:
    ran = after("a secret let out")
    shown = "hashed_password as display_name"  # in a snippet that two queries use
    assert ran.find() == [
        ran.place("secret", "queries/users.sql", name, shown) for name in ("get_user", "get_user_by_email")
    ]


def test_what_is_not_as_it_was_proven_is_an_error_until_it_is_accepted(after: After) -> None:
    lost, accepted = after("many mistakes"), after("an accepted loss")
    assert ("secret", "queries/proven.json", 1, "-") in lost.find()
    assert "users.hashed_password is marked secret" in lost.out
    marks = [
        msgspec.json.decode((ran.checkout / "queries/proven.json").read_bytes())["secrets"]
        for ran in (lost, accepted)
    ]
    assert [name for name in marks[0] if name not in marks[1]] == ["users.hashed_password"]
    assert (accepted.code, accepted.find()) == (0, [])
    assert "default of users.is_active is false, proven as true" in lost.out
    assert (
        '"name":"default of users.is_active","text":"false"'
        in (accepted.checkout / "queries/proven.json").read_text()
    )


def test_a_file_that_cannot_be_read_is_a_finding_among_others(after: After) -> None:
    ran = after("unreadable files")
    assert ran.code == 1
    assert ran.find() == [
        ran.place("signature", "queries/api_keys.sql", "get_api_key"),
        ran.place("signature", "queries/lonely.sql", "lonely"),
        ran.place("signature", "queries/loose.sql", "-", "select 1;"),
        ran.place("signature", "svc/health/__init__.py", "get_writability"),
    ]


RENAMED = {"create_api_key": "key_hash, rights", "get_api_key": "id, rights", "list_api_keys": "name, rights"}
RENAMED_COMMANDS = {"grant_api_key": "set rights", "rotate_api_key": "select rights"}


def test_an_old_query_that_does_not_prepare_on_the_new_schema_is_an_error(after: After) -> None:
    ran = after("over the first release")
    places = [ran.place("rollout", "queries/api_keys.sql", *new) for new in RENAMED.items()]
    expected = {(kind, f"first:{file}", line, query) for kind, file, line, query in places}
    assert ran.code == 1
    assert expected <= set(ran.find())


def test_an_old_query_that_stores_or_returns_something_else_on_the_new_schema_is_an_error(
    after: After,
) -> None:
    ran = after("over the first release")
    found = {(kind, file, query) for kind, file, _, query in ran.find()}
    others = {found_ for found_ in found if found_[2] not in {*RENAMED, *RENAMED_COMMANDS}}
    assert others == {
        ("rollout", "first:queries/users.sql", name)
        for name in ("create_user", "create_user_once", "create_users")
    }
    assert "idempotency_keys.made_by needs a value" in ran.out
    assert "default of users.is_active is false, proven as true" in ran.out


def test_a_new_query_that_does_not_outlive_a_rollback_is_a_warning(after: After) -> None:
    ran = after("over the first release")
    expected = [ran.place("rollout", "queries/api_keys.sql", *new) for new in RENAMED.items()]
    expected += [ran.place("rollout", "queries/key_commands.sql", *new) for new in RENAMED_COMMANDS.items()]
    expected += [ran.place("rollout", "queries/users.sql", "create_user_once", "(made_by,")]
    found = {place for place in ran.find(warning=True) if not place[1].startswith("first:")}
    assert sorted(found) == expected


def test_what_matters_to_an_old_query_and_does_not_break_it_is_a_warning(after: After) -> None:
    ran = after("over the first release")
    found = {(file, query) for _, file, _, query in ran.find(warning=True) if file.startswith("first:")}
    assert found == {(f"first:{file}", "import_users") for file in IMPORT}  # which gives out no default


def test_a_release_that_only_adds_to_the_schema_rolls_out_in_silence(after: After) -> None:
    ran = after("over the second release")
    assert (ran.code, ran.find(), ran.find(warning=True)) == (0, [], [])


@pytest.mark.parametrize("name", ["nowhere", "nothing"])
def test_a_revision_that_is_not_there_is_no_agreement(after: After, name: str) -> None:
    ran = after(f"over {name}")
    assert (ran.code, ran.out) == (1, "")
    assert re.fullmatch(r"svc: .*revision.*\n|svc: .*Not a valid object name nowhere\n", ran.err), ran.err
