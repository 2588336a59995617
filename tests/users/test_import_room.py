"""Imports where the disk has no room for them: the server's own trouble, told as that; and nothing is done."""

import resource
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import httpx
import pytest

from svc.users.importer import SPOOL_MAX_SIZE, NewUser, encode, parse_line
from tests.support import problem
from tests.support.imports import HASH, NDJSON, PATH, Sql, emails, lines, post

COUNT = 10_000
BODY = lines(COUNT)


def spool_size(body: bytes) -> int:
    """Bytes that an import keeps of a body in which all is good."""
    users = [parse_line(line, 10_000, in_full=False) for line in body.splitlines()]
    return sum(len(encode(NewUser.of(number, user, HASH))) + 1 for number, user in enumerate(users, 1))


def refuse(client: httpx.Client, sql: Sql) -> None:
    """Hold that an import is told that there is no room, and that it did nothing."""
    told = problem(client.post(PATH, content=BODY, headers=NDJSON), 503)
    assert told["type"] == "urn:bareline:problem:no-room"
    assert "no room" in told["detail"]
    assert "database" not in told["detail"].lower()
    assert emails(sql) == []


@contextmanager
def limit_files(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: a write fails then, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


SIZE = spool_size(BODY)


@pytest.mark.parametrize(
    "room",
    [0, SPOOL_MAX_SIZE // 2, SPOOL_MAX_SIZE + 100_000, SIZE - 1],
    ids=[
        "none",
        "as it becomes a file",
        "later",
        "for all but the last byte, which is written before the load",
    ],
)
def test_an_import_that_outgrows_the_disk_is_told_so(client: httpx.Client, sql: Sql, room: int) -> None:
    assert room < SIZE
    with limit_files(room):
        refuse(client, sql)
    with limit_files(SIZE):
        assert post(client, BODY)["created"] == COUNT


def test_a_full_disk_is_told(
    client: httpx.Client, sql: Sql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        refuse(client, sql)
        assert post(client, lines(100))["created"] == 100  # it needs no file


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk with room for a part of the import, where one may be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SPOOL_MAX_SIZE + 100_000}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted: {error}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_folder_that_takes_no_files_is_told(
    client: httpx.Client, sql: Sql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "folder"
    if kind == "a file":
        folder.touch()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    refuse(client, sql)
    monkeypatch.undo()
    assert post(client, BODY)["created"] == COUNT


def test_a_file_that_cannot_be_read_back_is_told(
    client: httpx.Client, sql: Sql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is open for writing alone, so the first read of it fails, with the transaction under way."""
    unreadable = tmp_path / "unreadable"
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: unreadable.open("wb"))
    refuse(client, sql)
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(TemporaryFile, dir=str(tmp_path)))
    assert post(client, BODY)["created"] == COUNT
