"""Imports that are cut, meet others, fail in the middle, or are large."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import argon2
import httpx
import psutil
import psycopg
import pytest

from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.http.protocol import RECEIVING
from svc.users.importer import BLOCK_BYTES, number_lines
from tests.support import Service, make_key, problem, with_settings
from tests.support.imports import NDJSON, PATH, Sql, emails, line, lines, post
from tests.support.waiting import wait_for


def begin(service: Service, framing: str, body: bytes) -> socket.socket:
    """A client that has sent a head and a part of the body."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {make_key(service.config)}\r\n"
    client = socket.create_connection(service.address)
    client.sendall(f"{head}Content-Type: application/x-ndjson\r\n{framing}\r\n\r\n".encode() + body)
    return client


def is_read(service: Service) -> bool:
    """Whether a handler has taken what came of a body that is not whole."""
    connections: Any = [*service.server.server_state.connections]
    return any(
        connection._body_size and not connection.cycle.body
        for connection in connections
        if getattr(connection, "_state", None) in RECEIVING
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_cut_leaves_nothing(
    service: Service, client: httpx.Client, sql: Sql, chunked: bool
) -> None:
    """And its place is free for the next import: there is but one."""
    body = lines(5000)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body) + 1}"
    cut = begin(service, framing, b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)
    wait_for(lambda: is_read(service))
    problem(client.post(PATH, content=lines(1), headers=NDJSON), 503)
    cut.close()
    wait_for(lambda: client.post(PATH, content=b"", headers=NDJSON).status_code == 200)
    assert post(client, lines(1, "next"))["created"] == 1
    assert emails(sql) == ["next0@example.com"]


def test_an_import_that_is_under_way_holds_nobody_up(
    service: Service, client: httpx.Client, sql: Sql
) -> None:
    """Nor a connection: somebody takes an email that a line above has, at once."""
    body = lines(2000)
    with begin(service, f"Content-Length: {len(body) + 1}", body) as slow:
        wait_for(lambda: is_read(service))
        busy = "application_name = 'bareline' and xact_start is not null and datname = current_database()"
        wait_for(lambda: sql(f"select count(*) from pg_stat_activity where {busy}") == [(0,)])
        answer = client.post("/users", json={"email": "user7@example.com", "password": "correct horse"})
        assert answer.status_code == 201
        slow.sendall(b"\n")
        head = slow.recv(10_000)
    assert b'{"created":1999,"skipped":1,' in head


def wait_for_lock(sql: Sql) -> int:
    """The process that waits for another one's row."""
    waiting = "wait_event = 'transactionid' and datname = current_database()"
    found: list[tuple[Any, ...]] = []
    wait_for(lambda: found.extend(sql(f"select pid from pg_stat_activity where {waiting}")) or found)
    return int(found[0][0])


def test_a_database_that_fails_in_the_middle_leaves_nothing(
    client: httpx.Client, sql: Sql, database_url: DatabaseUrl
) -> None:
    """The third block waits for an email that somebody else is about to take; then its connection is ended."""
    answers: list[httpx.Response] = []
    with psycopg.connect(database_url) as other:
        other.execute("insert into users (email, hashed_password) values ('user4000@example.com', 'x')")
        importing = threading.Thread(
            target=lambda: answers.append(client.post(PATH, content=lines(5000), headers=NDJSON))
        )
        importing.start()
        sql("select pg_terminate_backend(%s)", wait_for_lock(sql))
        importing.join()
        other.rollback()
    problem(answers[0], 503)
    assert emails(sql) == []
    assert post(client, lines(5000))["created"] == 5000


def test_two_imports_that_meet_end_as_one_after_the_other(config: Config, sql: Sql) -> None:
    """The same emails in opposite orders: one may be told to try again, and none is created twice."""
    config = with_settings(config, pool_size=8)
    body = lines(3000).splitlines(keepends=True)
    with Service(config) as service, service.client(make_key(config)) as client:
        answers: list[httpx.Response] = []

        def run(content: bytes) -> None:
            answers.append(client.post(PATH, content=content, headers=NDJSON))

        threads = [threading.Thread(target=run, args=(b"".join(part),)) for part in (body, body[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert sum(answer.json().get("created", 0) for answer in answers) == 3000
    assert len(emails(sql)) == 3000


def test_passwords_take_their_time(config: Config, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a request may take to come in, since it is us who do not read; others register meanwhile.

    Two passwords may be in the queue; clients register until the import finds it full, and it goes on.
    """
    config = with_settings(config, hash_queue=1, request_timeout=1)
    body = b"\n".join(
        line(f"{n}@example.com", password="correct horse", profile={"x": "y" * 16_000}) for n in range(30)
    )
    may_hash, found = threading.Event(), list[dict[str, Any]]()
    hash_now = argon2.PasswordHasher.hash

    def hash_later(hasher: argon2.PasswordHasher, password: str) -> str:
        may_hash.wait(30)
        return hash_now(hasher, password)

    monkeypatch.setattr(argon2.PasswordHasher, "hash", hash_later)
    with (
        Service(config) as service,
        service.client(make_key(config)) as client,
        ThreadPoolExecutor(4) as threads,
    ):

        def register(name: str) -> int:
            new = {"email": f"{name}@example.com", "password": "correct horse"}
            return client.post("/users", json=new).status_code

        threads.submit(lambda: found.append(post(client, body)))
        registered = [threads.submit(register, name) for name in "abc"]
        wait_for(lambda: any(each.done() for each in registered))
        time.sleep(1.5 * config.request_timeout)
        assert not found
        may_hash.set()
        statuses = {each.result() for each in registered}
    assert statuses == {201, 503}
    assert found[0]["created"] == 30


def test_reads_are_quick_while_an_import_runs(
    service: Service, client: httpx.Client, users: list[dict[str, Any]]
) -> None:
    found: list[dict[str, Any]] = []
    importing = threading.Thread(target=lambda: found.append(post(client, lines(30_000))))
    times: list[float] = []
    with service.client(client.headers["authorization"].removeprefix("Bearer ")) as other:
        other.get("/users/1").raise_for_status()
        importing.start()
        while importing.is_alive():
            started = time.process_time()  # whatever else this machine does
            other.get("/users/1").raise_for_status()
            times.append(time.process_time() - started)
    assert found[0]["created"] == 30_000
    assert sorted(times)[len(times) // 2] < 0.05
    assert max(times) < 0.5


def test_memory_stays_flat(client: httpx.Client) -> None:
    """30 MB in lines that are refused or good; service and client are this process."""
    process = psutil.Process()
    post(client, lines(20_000, "warm"))
    before, most = process.memory_info().rss, 0

    def body() -> Iterator[bytes]:
        nonlocal most
        for n in range(100):
            yield lines(500, f"batch{n}x") + b'{"x": "' + b"x" * 200_000 + b"\n"
            most = max(most, process.memory_info().rss)

    found = post(client, body())
    assert (found["created"], found["refused_count"]) == (50_000, 100)
    assert max(most, process.memory_info().rss) - before < 10_000_000


def test_an_import_may_have_so_many_bytes_and_no_more(config: Config, sql: Sql) -> None:
    body = lines(100)
    config = with_settings(config, max_import=len(body))
    with Service(config) as service, service.client(make_key(config)) as client:
        refused = problem(client.post(PATH, content=body + b"\n", headers=NDJSON), 413)
        assert "nothing was done" in refused["detail"]
        assert emails(sql) == []
        assert post(client, body)["created"] == 100


def test_an_import_has_an_end(config: Config, sql: Sql) -> None:
    config = with_settings(config, transfer_timeout=0.3)
    with Service(config) as service, service.client(make_key(config)) as client:
        with begin(service, "Content-Length: 10000", lines(1)) as slow:
            answer = b""
            while not answer.endswith(b"}"):
                answer += slow.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"nothing was done" in answer
        assert post(client, b"")["created"] == 0
        assert emails(sql) == []


def test_long_lines_are_parsed_a_few_at_a_time() -> None:
    async def give() -> AsyncIterator[bytes]:
        for number in range(250):
            yield b"x" * (BLOCK_BYTES // 3 if number < 10 else 1)

    async def take() -> list[tuple[int, list[bytes]]]:
        return [block async for block in number_lines(give())]

    blocks = asyncio.run(take())
    assert [len(lines) for _, lines in blocks] == [4, 4, 100, 100, 42]
    assert [first for first, _ in blocks] == [1, 5, 9, 109, 209]
