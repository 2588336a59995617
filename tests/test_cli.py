"""`svc` as a user runs it: real processes with a clean environment, most of them on the embedded server."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from svc.__main__ import make_parser
from svc.app import build_resources
from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.embedded import EmbeddedServer
from svc.http.resource import Outline
from svc.migrations import read_files
from tests.support import RESOURCES, problem
from tests.support.command_line import Cli, Served, end_server
from tests.support.waiting import wait_for

COMMANDS = {command.name for resource in RESOURCES for command in resource.commands}

DEAD = "postgresql://nobody:hunter2@127.0.0.1:1/nothing"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Commands on an embedded server that is not there yet."""
    return Cli(tmp_path)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster as initdb leaves it, which takes a second of CPU; to be copied."""
    folder = tmp_path_factory.mktemp("cluster")
    server = EmbeddedServer(folder)
    server._runner.set_up()
    server._make_cluster()
    return folder / "postgres"


Begin = Callable[..., Cli]


@pytest.fixture
def begin(tmp_path: Path, cluster: Path) -> Begin:
    """Commands on an embedded server whose cluster is there, and nothing in it."""

    def begin(data: str = "data", **environ: str) -> Cli:
        cli = Cli(tmp_path, data, **environ)
        cli.data.mkdir(parents=True)
        subprocess.run(["cp", "--archive", cluster, cli.data / "postgres"], check=True)
        return cli

    return begin


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service on a new embedded server, shared by tests that leave it as it is."""
    with Cli(tmp_path_factory.mktemp("first")).serve() as served:
        yield served


@pytest.mark.skipif(not shutil.which("curl"), reason="the commands are for curl")
def test_a_first_start_prints_a_key_and_commands_to_paste_that_work(first: Served) -> None:
    assert str(first.cli.data) in first.text
    commands = "\n".join(line for line in first.text.splitlines() if line.startswith("    "))
    pasted = subprocess.run(["bash", "-c", commands], text=True, capture_output=True, check=True)
    assert re.findall(r"HTTP/1\.1 (\d+)", pasted.stdout) == ["201", "200", "200", "200", "204"]


def test_keys_are_made_listed_and_revoked_while_the_service_runs(first: Served) -> None:
    *_, key = first.cli.run("keys", "create", "--name", "ops", "--scopes", "users:read").splitlines()
    assert first.get("/users", key).status_code == 200
    problem(first.post("/users", key, {}), 403)
    (row,) = (line for line in first.cli.run("keys", "list").splitlines() if " ops " in line)
    number, name, scopes, *_ = row.split()
    assert (name, scopes, key in row) == ("ops", "users:read", False)
    assert "users:write" in first.cli.run("keys", "grant", number, "--scopes", "users:write")
    body = {"email": "granted@example.com", "password": "correct horse"}
    wait_for(lambda: first.post("/users", key, body).status_code == 201)
    *_, newer = first.cli.run("keys", "rotate", number, "--overlap", "1h").splitlines()
    assert [first.get("/users", each).status_code for each in (key, newer)] == [200, 200]
    *_, newest = first.cli.run("keys", "rotate", str(int(number) + 1), "--overlap", "0").splitlines()
    wait_for(lambda: first.get("/users", newer).status_code == 401)
    assert [first.get("/users", each).status_code for each in (key, newest)] == [200, 200]
    assert "revoked" in first.cli.run("keys", "revoke", number)
    for command in (["grant", number, "--scopes", "all"], ["rotate", number]):
        assert number in first.cli.run("keys", *command, code=1)
    wait_for(lambda: first.get("/users", key).status_code == 401)
    assert number in first.cli.run("keys", "revoke", number, code=1)


WRONG = """
keys create
keys create --name x --scopes users:own
keys create --name x
keys create --name x --scopes all --expires soon
keys create --name x --scopes all --expires 0d
keys grant 1
keys rotate 1 --overlap soon
migrate --rollback 0
migrate --rollback 1 --status
seed
seed 0
seed -5
seed many
seed 1000000001
seed 5 --seed 0
serve --port 65536
serve --port 0 --workers 0
"""


@pytest.mark.parametrize("line", WRONG.splitlines()[1:])
def test_a_wrong_command_line_is_explained(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser(build_resources(Outline(Config())))
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(line.split())
    assert "usage: " in capsys.readouterr().err


def test_a_wrong_command_line_ends_the_command(tmp_path: Path) -> None:
    assert "usage: " in Cli(tmp_path, DATABASE_URL=DEAD).run("serve", "--port", "65536", code=2)


def test_wrong_settings_are_all_named(tmp_path: Path) -> None:
    cli = Cli(tmp_path, SVC_POOLSIZE="3", SVC_POOL_SIZE="no", OPEN_REGISTRATION="?")
    complaint = cli.run("serve", code=1)
    named = {line.split(": ")[1] for line in complaint.splitlines()}
    assert named == {"OPEN_REGISTRATION", "SVC_POOLSIZE", "SVC_POOL_SIZE"}


@pytest.mark.parametrize("arguments", [["keys", "list"], ["migrate"], ["migrate", "--status"]], ids=" ".join)
def test_a_database_that_cannot_be_reached_is_explained(tmp_path: Path, arguments: list[str]) -> None:
    complaint = Cli(tmp_path, DATABASE_URL=DEAD).run(*arguments, code=1)
    assert re.match(r"svc: The database cannot be used: .+", complaint)
    assert "hunter2" not in complaint


def test_a_port_in_use_is_explained(first: Served, tmp_path: Path) -> None:
    port = first.url.rpartition(":")[2]
    assert port in Cli(tmp_path, DATABASE_URL=DEAD).run("serve", "--port", port, code=1)


def test_serve_starts_while_its_database_is_down(tmp_path: Path) -> None:
    with Cli(tmp_path, DATABASE_URL=DEAD).serve() as served:
        assert "hunter2" not in served.text
        problem(served.get("/health/ready"), 503)


def test_serve_never_migrates_a_database_that_is_not_its_own(tmp_path: Path, empty_url: DatabaseUrl) -> None:
    cli = Cli(tmp_path, DATABASE_URL=empty_url)
    tables = b"select relname from pg_class where relnamespace = 'public'::regnamespace"
    with cli.serve() as served, psycopg.connect(empty_url, autocommit=True) as connection:
        problem(served.get("/health/ready"), 503)
        pending = cli.run("migrate", "--status", code=1).split()
        assert pending == [word for name in read_files() for word in ("pending", name)]
        assert connection.execute(tables).fetchall() == []
        assert cli.run("migrate").splitlines() == [f"applied {name}" for name in read_files()]
        assert {line.split()[0] for line in cli.run("migrate", "--status").splitlines()} == {"applied"}
        assert cli.run("migrate") == "nothing to do\n"
        wait_for(lambda: served.get("/health/ready").status_code == 200)
    assert not cli.data.exists()


def test_data_outlives_stops_and_kills_and_the_server_ends_with_its_last_user(cli: Cli) -> None:
    with cli.serve() as served:
        user = {"email": "ada@example.com", "password": "correct horse"}
        made = served.post("/users", served.key, user).raise_for_status().json()
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
    assert cli.has_server()
    *_, key = cli.run("keys", "create", "--name", "other", "--scopes", "all").splitlines()
    assert not cli.has_server()
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        with cli.serve() as served:
            assert "export KEY" not in served.text
            assert served.get(f"/users/{made['id']}", key).json() == made
            assert served.end(number) == code
        assert not cli.has_server()


@pytest.mark.parametrize("numbers", [[signal.SIGHUP], [signal.SIGTERM] * 20], ids=["hang-up", "impatience"])
def test_no_way_to_end_it_leaves_a_server_behind(begin: Begin, numbers: list[int]) -> None:
    cli = begin()
    with cli.serve() as served:
        served.get("/users", served.key)
        for number in numbers:
            served.process.send_signal(number)
            time.sleep(0.02)
        served.process.wait(timeout=60)
    wait_for(lambda: not cli.has_server())


@pytest.mark.skipif("seed" not in COMMANDS, reason="made-up users were deleted")
def test_made_up_users_are_in_the_database_that_is_served(begin: Begin) -> None:
    cli = begin()
    assert cli.run("seed", "30", "--seed", "7").startswith("30 users in ")
    assert not cli.has_server()
    with cli.serve() as served:
        assert len(served.get("/users", served.key).json()["users"]) == 30
        assert "users already" in cli.run("seed", "30", code=1)


def test_several_workers_serve_and_stop_together(begin: Begin) -> None:
    cli = begin()
    with cli.serve("--workers", "2") as served:
        assert {served.get("/users", served.key).status_code for _ in range(20)} == {200}
    assert not cli.has_server()


def test_workers_do_not_outlive_the_service(begin: Begin) -> None:
    cli = begin()
    with cli.serve("--workers", "2") as served:
        served.end(signal.SIGKILL)
        wait_for(lambda: not served.is_listening())
    wait_for(lambda: end_server(cli))  # which a killed service leaves to the next one


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_server_starts_leaves_no_server_behind(cli: Cli, number: int) -> None:
    process = cli.start("serve", "--port", "0")
    wait_for((cli.data / "postgres" / "postmaster.pid").exists)
    process.send_signal(number)
    process.wait(timeout=60)
    wait_for(lambda: not cli.has_server())


def test_commands_on_one_new_folder_at_the_same_time_all_succeed(cli: Cli) -> None:
    processes = [cli.start("keys", "create", "--name", f"key{n}", "--scopes", "all") for n in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert not cli.has_server()
    assert sorted(re.findall(r"key\d", cli.run("keys", "list"))) == ["key0", "key1", "key2"]


@pytest.mark.parametrize("name", ["""a b's "c" $HOME `d` %41""", "a,b"], ids=["odd", "comma"])
def test_a_folder_of_data_may_have_any_name(tmp_path: Path, name: str) -> None:
    cli = Cli(tmp_path, name)
    assert cli.run("keys", "create", "--name", "x", "--scopes", "all")
    assert " x " in cli.run("keys", "list")
    assert not cli.has_server()


def test_a_locale_without_unicode_is_no_hindrance(tmp_path: Path) -> None:
    cli = Cli(tmp_path, "dätä", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert cli.run("keys", "create", "--name", "Üñal", "--scopes", "all")
    assert " Üñal " in cli.run("keys", "list")
    with cli.serve("--workers", "2") as served:
        assert served.get("/health/ready").status_code == 200
