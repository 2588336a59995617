"""The embedded PostgreSQL on odd machines: other users, other programs' pids, full disks, signals, other versions."""

import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from svc.database_url import DatabaseUrl
from svc.embedded import EmbeddedServer, Runner
from tests.support.command_line import SVC, Cli
from tests.support.waiting import wait_for

OTHERS = sorted(path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists())
"""Programs of other versions."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster as initdb leaves it, which takes a second of CPU; to be copied."""
    folder = tmp_path_factory.mktemp("cluster")
    with EmbeddedServer(folder):
        pass
    return folder / "postgres"


@pytest.fixture
def cli(tmp_path: Path, cluster: Path) -> Cli:
    """Commands on a cluster that is there, and has not run yet."""
    return begin(Cli(tmp_path), cluster)


def begin(cli: Cli, cluster: Path) -> Cli:
    """Give commands a copy of the cluster."""
    cli.data.mkdir(mode=0o755)
    subprocess.run(["cp", "--archive", cluster, cli.data / "postgres"], check=True)
    return cli


def make_key(cli: Cli) -> str:
    """Run a command that uses the server."""
    return cli.run("keys", "create", "--name", "x", "--scopes", "all")


def test_nobody_else_can_hold_a_lock_or_see_the_data(cli: Cli) -> None:
    for name in ("start.lock", "in_use.lock"):  # as older releases made them
        (cli.data / name).touch(0o644)
    make_key(cli)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (cli.data, *cli.data.iterdir())}
    assert modes.keys() == {"data", "postgres", "start.lock", "in_use.lock", "running.lock"}
    assert [name for name, mode in modes.items() if mode & 0o066] == []  # the server's user may pass, at most


def test_a_folder_that_holds_more_keeps_its_rights(cli: Cli) -> None:
    (cli.data / "mine.txt").touch()
    make_key(cli)
    assert stat.S_IMODE(cli.data.stat().st_mode) == 0o755
    assert stat.S_IMODE((cli.data / "start.lock").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_lock_of_somebody_else_is_refused(cli: Cli) -> None:
    (cli.data / "start.lock").touch(0o666)
    os.chown(cli.data / "start.lock", 65534, 65534)
    complaint = cli.run("keys", "list", code=1)
    assert "start.lock belongs to somebody else" in complaint


@pytest.mark.parametrize(
    "named", [["sleep", "600"], [sys.executable, "-c", "POSTGRES"]], ids=["other", "namesake"]
)
def test_a_pid_that_is_somebody_elses_by_now_gets_no_signal_and_does_not_hinder_the_start(
    cli: Cli, named: list[str], tmp_path: Path
) -> None:
    if named[0] != "sleep":  # another server's, by its name
        shutil.copy("/bin/sleep", tmp_path / "postgres")
        named = [str(tmp_path / "postgres"), "600"]
    with subprocess.Popen(named) as bystander:
        (cli.data / "postgres" / "postmaster.pid").write_text(
            f"{bystander.pid}\n{cli.data}/postgres\n1700000000\n5432\n{cli.data}/postgres\n\n  5432001         7\nready\n"
        )
        (cli.data / "postgres" / ".s.PGSQL.5432.lock").write_text(f"{bystander.pid}\n")
        make_key(cli)
        assert " x " in cli.run("keys", "list")
        assert not (cli.data / "postgres" / "postmaster.pid").exists()
        assert bystander.poll() is None
        bystander.kill()


def test_a_server_that_was_killed_is_started_anew(cli: Cli) -> None:
    with EmbeddedServer(cli.data) as server:
        pid = server._find_postmaster()
        assert pid
        os.kill(pid, signal.SIGKILL)
        make_key(cli)  # as soon as its last processes are gone
        assert not cli.has_server() or server._find_postmaster() != pid


@pytest.mark.parametrize(
    "name", ["PGPORT", "PGHOST", "PGSSLMODE", "PGSERVICE", "PGUSER", "PGDATABASE", "PGOPTIONS", "PGTZ", "PGDATA",
             "PGTARGETSESSIONATTRS", "PGCLIENTENCODING", "PGCHANNELBINDING", "PGGSSENCMODE", "PGPASSFILE"]
)  # fmt: skip
def test_variables_of_other_servers_are_not_for_this_one(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "require")
    with EmbeddedServer(server._folder), psycopg.connect(server.url) as connection:
        assert connection.info.user == "bareline"


def test_a_command_forgets_them_all(tmp_path: Path, cluster: Path) -> None:
    odd = {
        "PGPORT": "1",
        "PGSSLMODE": "require",
        "PGSERVICE": "none",
        "PGOPTIONS": "-c nonsense=1",
        "PGDATA": "/",
    }
    cli = begin(Cli(tmp_path, **odd, PGTARGETSESSIONATTRS="standby", PGHOST="/nowhere"), cluster)
    with cli.serve() as served:
        assert served.get("/users", served.key).status_code == 200


def test_a_server_that_is_ending_is_waited_for_and_started_anew(tmp_path: Path, cluster: Path) -> None:
    cli = begin(Cli(tmp_path), cluster)
    first = EmbeddedServer(cli.data, ("fsync=off",)).__enter__()
    pid = first._find_postmaster()
    assert pid
    (checkpointer,) = [
        each for each in psutil.Process(pid).children() if "checkpointer" in "".join(each.cmdline())
    ]
    checkpointer.suspend()
    os.kill(pid, signal.SIGINT)
    wait_for(lambda: first._read_state() == "stopping")
    threading.Timer(0.3, checkpointer.resume).start()
    with EmbeddedServer(cli.data) as second, psycopg.connect(second.url):
        assert second._find_postmaster() != pid
    first._use.close()  # type: ignore[union-attr]


def test_who_used_a_folder_that_was_removed_leaves_its_successor_alone(tmp_path: Path, cluster: Path) -> None:
    data = begin(Cli(tmp_path), cluster).data
    old = EmbeddedServer(data).__enter__()
    pid = old._find_postmaster()
    shutil.rmtree(data)
    begin(Cli(tmp_path), cluster)
    with EmbeddedServer(data) as new:
        old.__exit__(None, None, None)
        psycopg.connect(new.url).close()
    os.kill(pid or 0, signal.SIGKILL)


def test_a_copy_of_a_folder_whose_server_runs_takes_nothing_from_it(tmp_path: Path, cluster: Path) -> None:
    data = begin(Cli(tmp_path, "x" * 150), cluster).data
    with EmbeddedServer(data) as server:
        copied = data.with_name("y" * 150)
        shutil.copytree(data, copied, ignore=shutil.ignore_patterns(".s.PGSQL*"))
        with EmbeddedServer(copied) as copy:
            assert copy.url != server.url
        psycopg.connect(server.url).close()


@pytest.mark.parametrize("mode", [0o1777, 0o2775, 0o755])
def test_a_folder_that_was_there_and_empty_keeps_its_rights(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    Runner(folder).set_up()
    assert stat.S_IMODE(folder.stat().st_mode) & ~0o001 == mode & ~0o001


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server that runs, for tests that leave it as it is."""
    with EmbeddedServer(tmp_path_factory.mktemp("running"), ("fsync=off",)) as server:
        yield server


def test_the_log_turns_over_and_holds_no_values(server: EmbeddedServer) -> None:
    secret = "ada.secret@example.com"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("create table emails (email text primary key)")
        statements = [
            f"insert into emails values ('{secret}')",
            f"select '{secret}'::int",
            f"do $$ begin raise warning '{secret}'; end $$",
            f"select * from nowhere where email = '{secret}'",
            "insert into emails values (%s)",
        ]
        connection.execute(statements[0].encode())
        for statement in statements:
            given = (secret,) if "%s" in statement else ()
            with pytest.raises(psycopg.Error) if "do $$" not in statement else open(os.devnull):
                connection.execute(statement.encode(), given)
        assert connection.execute("select pg_rotate_logfile()").fetchone() == (True,)
        settings = "select current_setting('log_filename'), current_setting('log_truncate_on_rotation')"
        assert connection.execute(settings).fetchone() == ("server-%a.log", "on")
    logs = [*server._cluster.glob("log/*"), server._cluster / "server.log"]
    assert len(logs) > 1
    assert not [log for log in logs if secret in log.read_text() or log.stat().st_mode & 0o077]


def test_a_long_path_moves_the_socket_to_a_new_folder_that_nobody_else_can_enter(
    tmp_path: Path, cluster: Path
) -> None:
    cli = begin(Cli(tmp_path, "x" * 150, TMPDIR=str(tmp_path)), cluster)
    folders = set()
    for _ in range(2):
        with cli.serve() as served:
            assert served.get("/health/ready").status_code == 200
            folder = Path((cli.data / "postgres" / "postmaster.pid").read_text().splitlines()[4])
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            folders.add(folder)
        assert not folder.exists()
        folder.mkdir(0o777)  # as somebody else could make it
    assert len([folder.rmdir() for folder in folders]) == 2
    assert not cli.has_server()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a disk that is soon full."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("size", ["8m", "4k"])
def test_a_full_disk_at_the_first_start_is_told(tmp_path: Path, size: str) -> None:
    cli = Cli(tmp_path, TMPDIR=str(tmp_path / "data"))
    with small_disk(cli.data, size):
        complaint = cli.run("keys", "list", code=1)
        assert "No space left on device" in complaint
        assert not cli.has_server()
        subprocess.run(["mount", "-o", "remount,size=200m", str(cli.data)], check=True)
        make_key(cli)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    complaint = Cli(tmp_path, "file/data").run("keys", "list", code=1)
    assert re.fullmatch(
        r"svc: The embedded PostgreSQL cannot be used: Not a directory \(.*file/data\)\n", complaint
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_the_first_start_ends_it_and_says_nothing_odd(
    tmp_path: Path, number: int, code: int
) -> None:
    cli = Cli(tmp_path)
    process = cli.start("keys", "list")
    wait_for((cli.data / "postgres.unfinished").exists)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    lines = cli.output.read_text().splitlines()
    assert [line for line in lines if not line.startswith("Opening ")] == []
    make_key(cli)
    assert not cli.has_server()


def test_a_lock_that_a_server_holds_elsewhere_means_that_it_runs(cli: Cli) -> None:
    with EmbeddedServer(cli.data) as server, (cli.data / "running.lock").open("r+b") as probe:
        with pytest.raises(BlockingIOError):
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert server._is_running()
    assert not server._is_running()


@pytest.mark.skipif(not OTHERS, reason="no other PostgreSQL is installed")
def test_a_cluster_of_another_major_version_is_refused_with_commands_that_move_it(tmp_path: Path) -> None:
    cli = Cli(tmp_path, "a b")
    runner = Runner(cli.data)
    runner.set_up()
    runner.programs = OTHERS[0]
    old = cli.data / "postgres"
    old.mkdir(0o700)
    runner.give(old)
    runner.run("initdb", "-D", ".", *"-U bareline --auth=trust -E UTF8 --locale=C".split(), folder=old)
    start = ["-w", "-o", "-c listen_addresses= -c unix_socket_directories=."]
    runner.run("pg_ctl", "-D", ".", *start, "-l", "log", "start", folder=old)
    url = DatabaseUrl(f"postgresql://bareline@/postgres?host={old}".replace(" ", "%20"))
    other = Cli(tmp_path, "none", DATABASE_URL=url)
    other.run("migrate")
    other.run("keys", "create", "--name", "moved", "--scopes", "all")
    runner.run("pg_ctl", "-D", ".", "-w", "stop", folder=old)

    complaint = cli.run("keys", "list", code=1)
    commands = "\n".join(line for line in complaint.splitlines() if line.startswith("    "))
    version = OTHERS[0].parent.name
    assert f"is of PostgreSQL {version}, and this is PostgreSQL " in complaint
    script = "set -e\nsvc() { " + " ".join(SVC) + ' "$@" || true; }\n' + commands
    moved = subprocess.run(["bash", "-c", script], capture_output=True, **cli.how)
    assert moved.returncode == 0, moved.stderr
    assert " moved " in cli.run("keys", "list")
    assert {path.name for path in cli.data.iterdir()} >= {"postgres", f"postgres-{version}"}
