"""Programs that the suite starts, each in a session of its own, and how all of them end."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

CHECKOUT = Path(__file__).parent.parent

MARK = "BARELINE_BENCH"
"""The environment variable that every process of a run inherits, PostgreSQL's too: the run's own folder."""


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | int = subprocess.DEVNULL,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program: a Ctrl-C in the terminal does not reach it, and what it starts ends with it."""
    return subprocess.Popen(
        command,
        env=dict(environment) if environment is not None else None,
        cwd=folder,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def clean_environment() -> dict[str, str]:
    """Return this process's variables without those that would set the service, uvicorn or a driver."""
    return {name: value for name, value in os.environ.items() if not is_setting(name)}


def is_setting(name: str) -> bool:
    """Return whether a variable of the user's would change a service or a driver."""
    return name.startswith(("SVC_", "PG", "UVICORN_")) or name == "OPEN_REGISTRATION"


def end(
    process: subprocess.Popen[bytes], patience: float = 10, first: signal.Signals = signal.SIGTERM
) -> None:
    """End a program and all it started: the `first` signal, and SIGKILL after `patience` seconds."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, first)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(
    command: Sequence[str],
    seconds: float,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a program to its end, for at most so many seconds; return its exit code and its output.

    Raises subprocess.TimeoutExpired.
    """
    with tempfile.TemporaryFile() as output:
        process = spawn(command, environment, output, folder=folder)
        try:
            code = process.wait(seconds)
        finally:
            end(process, 1)
        output.seek(0)
        return code, output.read().decode(errors="replace")


@contextmanager
def watched_folder(*leftovers: Path) -> Generator[Path]:
    """Make a folder for one run. When the block or the process ends in any way, nothing of it is left.

    A second process sees to that: it waits for the end of a pipe, which comes with the end of this
    process even by SIGKILL, then ends every process with the run's mark and removes folder and leftovers.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "bench.processes", str(folder), *map(str, leftovers)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    os.environ[MARK] = str(folder)
    try:
        yield folder
    finally:
        watchdog.communicate()
        del os.environ[MARK]


def watch(folder: str, leftovers: Sequence[str]) -> None:
    """Wait for the end of stdin; then end what is left of the run, and remove its folders."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    patient_until = time.monotonic() + 5
    while marked := find_marked(folder):
        for process in marked:
            with suppress(psutil.NoSuchProcess):
                # PostgreSQL then takes its children and its shared memory with it.
                gently = process.name() == "postgres" and time.monotonic() < patient_until
                process.send_signal(signal.SIGQUIT if gently else signal.SIGKILL)
        time.sleep(0.1)
    for path in (folder, *leftovers):
        shutil.rmtree(path, ignore_errors=True)


def find_marked(folder: str) -> list[psutil.Process]:
    """Return every process that was started, directly or not, by the run in this folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2:])
