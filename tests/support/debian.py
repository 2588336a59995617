"""Servers of Debian's PostgreSQL: they have TLS and a port, can be standbys, and are of another major version."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from svc.embedded import Runner

PROGRAMS = sorted(path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists())
"""Folders of programs, one for each version that is installed."""

needs_debian = pytest.mark.skipif(not PROGRAMS, reason="Debian's PostgreSQL is not installed")

LEAN = "-c listen_addresses=127.0.0.1 -c unix_socket_directories=. -c fsync=off -c max_connections=30"


class Debian:
    """Clusters in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = Runner(folder)
        self.runner.set_up()
        self.runner.programs = PROGRAMS[-1]

    def make(self, name: str) -> Path:
        """Make a cluster whose superuser is bareline."""
        cluster = self._own(name)
        options = "-U bareline --auth=trust -E UTF8 --locale=C --no-sync".split()
        self.runner.run("initdb", "-D", ".", *options, folder=cluster)
        return cluster

    def make_certificate(self, cluster: Path) -> Path:
        """Make a key, and a certificate of localhost that it signs by itself."""
        certificate = cluster / "server.crt"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split()
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        command += ["-keyout", str(cluster / "server.key"), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        self.runner.give(cluster / "server.key")
        (cluster / "server.key").chmod(0o600)
        return certificate

    def copy(self, port: int, name: str) -> Path:
        """Make a standby of the cluster that listens on a port."""
        cluster = self._own(name)
        source = f"host=127.0.0.1 port={port} user=bareline"
        options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--wal-method=stream"]
        self.runner.run("pg_basebackup", "-D", ".", "-d", source, *options, folder=cluster)
        return cluster

    @contextmanager
    def running(self, cluster: Path, *settings: str) -> Iterator[int]:
        """Run a cluster; give its port."""
        port = find_port()
        options = " ".join([LEAN, f"-c port={port}", *(f"-c {setting}" for setting in settings)])
        self.runner.run("pg_ctl", "start", "-D", ".", "-w", "-l", "log", "-o", options, folder=cluster)
        try:
            yield port
        finally:
            self.runner.run("pg_ctl", "stop", "-D", ".", "-w", "-m", "immediate", folder=cluster)

    def _own(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(0o700)
        self.runner.give(folder)
        return folder


def find_port() -> int:
    """Return a port that is free."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
