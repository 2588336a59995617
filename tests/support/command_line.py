"""`svc` as a user runs it: processes with a clean environment."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from svc.embedded import EmbeddedServer
from tests.support import CHECKOUT, make_client
from tests.support.waiting import DEADLINE, wait_for

SVC = [sys.executable, "-m", "svc"]
CLIS: list["Cli"] = []
"""All that were made in this process, to be cleaned up."""


class Served:
    """A service that runs, what it printed, and where it listens."""

    def __init__(self, cli: "Cli", process: "subprocess.Popen[str]", text: str) -> None:
        self.cli = cli
        self.process = process
        self.text = text
        self.url = self.find(r"Listening on (http://\S+)")

    def find(self, pattern: str) -> str:
        """Return something of what it printed."""
        found = re.search(pattern, self.text)
        assert found, self.text
        return found[1]

    @property
    def key(self) -> str:
        """Return the key of a first start."""
        return self.find(r"export KEY=(\S+)")

    def get(self, path: str, key: str = "") -> httpx.Response:
        """Ask it something."""
        return self._request("GET", path, key)

    def post(self, path: str, key: str, body: object) -> httpx.Response:
        """Have it make something."""
        return self._request("POST", path, key, json=body)

    def _request(self, method: str, path: str, key: str, **content: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with make_client(self.url, headers) as client:
            return client.request(method, path, **content)

    def is_listening(self) -> bool:
        """Return whether its port takes connections."""
        url = httpx.URL(self.url)
        with suppress(OSError), socket.create_connection((url.host, url.port or 80), timeout=5):
            return True
        return False

    def end(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


class Cli:
    """A folder of data and an environment for commands."""

    def __init__(self, folder: Path, data: str = "data", **environ: str) -> None:
        self.data = folder / data
        self.output = folder / "output"
        environ = {"PATH": os.environ["PATH"], "SVC_DATA_DIR": str(self.data), **environ}
        self.how: dict[str, Any] = {"cwd": CHECKOUT, "env": environ, "text": True}
        self.started: list[subprocess.Popen[str]] = []
        CLIS.append(self)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command in a process group of its own."""
        how = {**self.how, "stderr": subprocess.STDOUT, "start_new_session": True}
        with self.output.open("w") as output:
            process = subprocess.Popen([*SVC, *arguments], stdout=output, **how)
        self.started.append(process)
        return process

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command to its end; return what it prints, and what it complains of where it should fail."""
        done = subprocess.run([*SVC, *arguments], capture_output=True, timeout=DEADLINE, **self.how)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr if code else done.stdout

    @contextmanager
    def serve(self, *options: str) -> Iterator[Served]:
        """Give the service on a free port, from its first answer on; stop it at the end, unless it was."""
        process = self.start("serve", "--port", "0", *options)
        wait_for(lambda: process.poll() is not None or "Listening on " in self.output.read_text())
        served = Served(self, process, self.output.read_text())
        wait_for(lambda: served.get("/health/live").status_code == 200)
        served.text = self.output.read_text()
        yield served
        if process.poll() is None:
            assert served.end(signal.SIGTERM) == 0
        assert "Traceback" not in self.output.read_text()

    def has_server(self) -> bool:
        """Return whether the embedded server runs."""
        with suppress(OSError, ValueError):
            pid, *_ = (self.data / "postgres" / "postmaster.pid").read_text().split()
            os.kill(int(pid), 0)
            return True
        return False


def clean_up() -> None:
    """Kill what still runs, and end embedded servers."""
    while CLIS:
        cli = CLIS.pop()
        for process in cli.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        wait_for(partial(end_server, cli))


def end_server(cli: Cli) -> bool:
    """End an embedded server that nobody stopped; return whether there is none. A killed worker takes a moment."""
    if cli.has_server():
        with EmbeddedServer(cli.data):
            pass
    return not cli.has_server()
