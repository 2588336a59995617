"""Keys, scopes and passwords: who gets in, for how long, and what is kept of a secret."""

import asyncio
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import argon2
import httpx
import pytest

from svc.accounts.keys import KEY_CACHE_TTL, make_token
from svc.accounts.passwords import Password, Passwords
from svc.config import Config
from svc.http.problems import Problem
from tests.support import Service, make_key, problem, with_settings

Sql = Callable[..., list[tuple[Any, ...]]]
User = dict[str, Any]

PASSWORD = Password("correct horse")
NEW = {"email": "dee@example.com", "password": PASSWORD}


def test_a_key_is_stored_as_its_hash_alone(config: Config, sql: Sql) -> None:
    tokens = [make_key(config, name=name) for name in ("one", "two", "three")]
    assert {(token[:3], len(token)) for token in tokens} == {("bl_", 46)}  # 256 bits in base64
    hashes = [bytes(key_hash) for (key_hash,) in sql("select key_hash from api_keys order by id")]
    assert hashes == [hashlib.sha256(token.encode()).digest() for token in tokens]
    rows = str(sql("select k::text from api_keys k"))
    assert not [token for token in tokens if token in rows or token.removeprefix("bl_") in rows]


WAYS = [
    ("GET", "/users", "users:read"),
    ("GET", "/users/1", "users:read"),
    ("POST", "/users", "users:write"),
    ("PATCH", "/users/1", "users:write"),
    ("DELETE", "/users/1", "users:write"),
]


def test_a_key_opens_what_its_scope_says(service: Service, users: list[User]) -> None:
    for held in ("users", "users:*", "users:read", "users:write"):
        with service.client(make_key(service.config, held)) as client:
            for method, path, needed in WAYS:
                body = {"POST": NEW, "PATCH": {"display_name": "A"}}.get(method)
                response = client.request(method, path, json=body)
                if needed == held:
                    assert response.is_success, (method, path, response.text)
                else:
                    assert needed in problem(response, 403)["detail"]
                    challenge = response.headers["WWW-Authenticate"]
                    assert re.fullmatch(f'Bearer .*error="insufficient_scope".*scope="{needed}"', challenge)


def assert_challenged(client: httpx.Client, headers: dict[bytes, bytes]) -> str:
    """Holds that every way in answers 401: the challenge."""
    challenges = set()
    for method, path, _ in WAYS:
        response = client.request(method, path, headers=headers)
        problem(response, 401)
        challenges.add(response.headers["WWW-Authenticate"])
    (challenge,) = challenges
    assert challenge.startswith('Bearer realm="')
    return challenge


def test_a_wrong_token_is_challenged_otherwise_than_none(service: Service, users: list[User]) -> None:
    token = make_key(service.config).encode()
    wrong = [token[:-1], token + b"x", token.swapcase(), token[3:], token + b" x", b'"' + token + b'"']
    wrong += [make_token().encode(), b"bl_", b"x", b"x" * 50_000, b"\xff\xfe", b"\xc2\xa0"]
    none = [
        b"",
        b"Bearer",
        b"bearer",
        b"Basic " + token,
        token,
        b"Bearer" + token,
        b"Token " + token,
        b"\xff",
    ]
    with service.client() as client:
        for garbled in wrong:
            challenge = assert_challenged(client, {b"Authorization": b"Bearer " + garbled})
            assert 'error="invalid_token"' in challenge, garbled
        for header in ({}, *({b"Authorization": value} for value in none)):
            assert "error=" not in assert_challenged(client, header), header  # RFC 6750, 3.1


def test_the_scheme_may_be_written_in_any_case(service: Service, users: list[User]) -> None:
    token = make_key(service.config)
    with service.client() as client:
        for scheme in ("Bearer ", "bearer ", "BEARER ", "Bearer   "):
            answer = client.get("/users", headers={"Authorization": scheme + token})
            assert answer.json()["users"] == users


def test_a_revoked_key_is_refused_once_the_look_at_it_is_too_old(
    service: Service, client: httpx.Client, users: list[User], sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < KEY_CACHE_TTL <= 5
    now = 1000.0
    monkeypatch.setattr("svc.accounts.keys.time", SimpleNamespace(monotonic=lambda: now))
    with service.client(make_key(service.config, name="other")) as other:
        other.get("/users").raise_for_status()
        sql("update api_keys set revoked_at = now() where name = 'other'")
        for _ in range(2):
            now += KEY_CACHE_TTL * 0.24
            assert other.get("/users").json()["users"] == users  # use alone does not renew it
        now += KEY_CACHE_TTL * 0.6
        assert 'error="invalid_token"' in assert_challenged(other, {})
        now -= KEY_CACHE_TTL
        assert_challenged(other, {})  # it was forgotten, too
    assert client.get("/users").json()["users"] == users


def test_a_key_ends_when_it_expires(
    service: Service, users: list[User], sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svc.accounts.keys.KEY_CACHE_TTL", 0.0)
    with service.client(make_key(service.config, name="short")) as short:
        for expiry, status in (("+ interval '1 hour'", 200), ("- interval '1 second'", 401)):
            short.get("/users").raise_for_status()
            sql(f"update api_keys set expires_at = now() {expiry} where name = 'short'")
            assert short.get("/users").status_code == status


def test_registration_is_open_to_anyone_only_where_it_is_said_to_be(config: Config) -> None:
    for is_open in (False, True):
        with Service(with_settings(config, open_registration=is_open)) as service, service.client() as client:
            response = client.post("/users", json=NEW)
            assert response.status_code == (201 if is_open else 401)
            problem(client.get("/users"), 401)
            problem(client.patch("/users/1", json={"display_name": "A"}), 401)
            problem(client.delete("/users/1"), 401)


def test_a_password_is_stored_as_an_argon2id_hash_alone(
    client: httpx.Client, users: list[User], sql: Sql
) -> None:
    client.post("/users", json={**NEW, "password": "pässwörd " + "x" * 1000}).raise_for_status()
    hashes = [hashed for (hashed,) in sql("select hashed_password from users order by id")]
    assert len(set(hashes)) == len(users) + 1  # each has its own salt
    for hashed in hashes[:-1]:
        assert argon2.PasswordHasher().verify(hashed, "correct horse")
    assert argon2.PasswordHasher().verify(hashes[-1], "pässwörd " + "x" * 1000)
    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        argon2.PasswordHasher().verify(hashes[-1], "pässwörd " + "x" * 999)
    tables = [name for (name,) in sql("select tablename from pg_tables where schemaname = 'public'")]
    assert "users" in tables
    rows = "".join(str(sql(f'select t::text from "{table}" t')) for table in tables)
    assert "correct horse" not in rows
    assert "pässwörd" not in rows


@pytest.mark.parametrize(
    ("config", "memory", "passes"),
    [(Config(), 19_456, 2), (Config(hash_memory=64, hash_passes=3), 64, 3)],
)
def test_a_hash_has_the_configured_cost(config: Config, memory: int, passes: int) -> None:
    async def run() -> str:
        with closing(Passwords(config)) as passwords:
            return await passwords.hash(PASSWORD)

    hashed = asyncio.run(run())
    parameters = argon2.extract_parameters(hashed)
    assert parameters.type is argon2.Type.ID
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (memory, passes, 1)
    assert parameters.salt_len >= 16
    assert parameters.hash_len >= 32
    assert argon2.PasswordHasher().verify(hashed, "correct horse")


class Gate:
    """Holds every hash back until it is opened; `begun` counts those that wait at it."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.opened = threading.Event()

    def hash(self, password: str) -> str:
        self.begun.release()
        assert self.opened.wait(5), "nothing opened the gate"
        return f"hash of {len(password)}"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate in front of argon2."""
    gate = Gate()
    monkeypatch.setattr(argon2.PasswordHasher, "hash", lambda _, password: gate.hash(password))
    yield gate
    gate.opened.set()


def test_the_loop_turns_while_a_password_is_hashed(gate: Gate) -> None:
    async def run() -> str:
        with closing(Passwords(Config())) as passwords:
            job = asyncio.create_task(passwords.hash(PASSWORD))
            assert await asyncio.to_thread(gate.begun.acquire, timeout=5)
            gate.opened.set()  # by the loop, which a hash on it would not let come here
            return await job

    assert asyncio.run(run()) == "hash of 13"


async def fill(passwords: Passwords, gate: Gate, free: int) -> None:
    """Holds that this many more are let in and no other, then lets them through."""
    gate.opened.clear()
    jobs = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(free)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await passwords.hash(PASSWORD)
    assert refused.value.status == 503
    assert int(refused.value.headers["Retry-After"]) > 0
    gate.opened.set()
    await asyncio.gather(*jobs)


def test_no_more_passwords_than_the_bound_wait(gate: Gate) -> None:
    async def run() -> None:
        with closing(Passwords(Config(hash_threads=2, hash_queue=3))) as passwords:
            await fill(passwords, gate, 5)
            await fill(passwords, gate, 5)  # all slots came back

    asyncio.run(run())


def test_a_caller_that_leaves_does_not_free_the_slot_of_a_job_that_runs(gate: Gate) -> None:
    async def run() -> None:
        with closing(Passwords(Config(hash_threads=1, hash_queue=2))) as passwords:
            running = asyncio.create_task(passwords.hash(PASSWORD))
            assert await asyncio.to_thread(gate.begun.acquire, timeout=5)
            waiting = asyncio.create_task(passwords.hash(PASSWORD))
            await asyncio.sleep(0)
            for task in (running, waiting):
                task.cancel()
            await asyncio.wait([running, waiting])
            await asyncio.sleep(0)
            await fill(passwords, gate, 2)  # what only waited gave its slot back, what runs did not
            await fill(passwords, gate, 3)

    asyncio.run(run())


def test_a_hash_that_fails_gives_its_slot_back(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        with closing(Passwords(Config(hash_threads=1, hash_queue=1))) as passwords:
            with monkeypatch.context() as broken:
                broken.setattr(argon2.PasswordHasher, "hash", lambda _, password: 1 // 0)
                failed = await asyncio.gather(
                    *(passwords.hash(PASSWORD) for _ in range(2)), return_exceptions=True
                )
            assert [type(error) for error in failed] == [ZeroDivisionError] * 2
            await fill(passwords, gate, 2)

    asyncio.run(run())


def test_an_overload_of_passwords_is_a_503_and_leaves_readers_alone(config: Config, gate: Gate) -> None:
    config = with_settings(config, hash_threads=1, hash_queue=1)
    with (
        Service(config) as service,
        service.client(make_key(config)) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        bodies = [{**NEW, "email": f"{name}@example.com"} for name in ("ada", "bob", "cyd")]
        jobs = [pool.submit(client.post, "/users", json=body) for body in bodies]
        refused = next(as_completed(jobs))  # the other two are held back
        assert problem(refused.result(), 503)["type"] == "urn:bareline:problem:overload"
        assert int(refused.result().headers["Retry-After"]) > 0
        assert client.get("/users").json()["users"] == []
        gate.opened.set()
        assert sorted(job.result().status_code for job in jobs) == [201, 201, 503]


def test_owners_take_turns_and_the_one_with_the_most_gives_way(gate: Gate) -> None:
    """Whoever registers without end takes neither all places nor all time."""

    async def run() -> tuple[list[str], list[int]]:
        order: list[str] = []

        async def hash_for(owner: str) -> None:
            await passwords.hash(PASSWORD, owner)
            order.append(owner)

        with closing(Passwords(Config(hash_threads=1, hash_queue=4))) as passwords:
            many = [asyncio.create_task(hash_for("many")) for _ in range(5)]
            await asyncio.sleep(0)
            few = [asyncio.create_task(hash_for("few")) for _ in range(2)]
            await asyncio.sleep(0)
            gate.opened.set()
            outcomes = await asyncio.gather(*many, *few, return_exceptions=True)
        return order, [getattr(outcome, "status", 200) for outcome in outcomes]

    order, statuses = asyncio.run(run())
    assert statuses == [200, 200, 200, 503, 503, 200, 200]
    assert order == ["many", "many", "few", "many", "few"]


def test_whoever_leaves_as_another_comes_takes_nothing_from_it(gate: Gate) -> None:
    async def run() -> list[str]:
        with closing(Passwords(Config(hash_threads=1, hash_queue=3))) as passwords:
            many = [asyncio.create_task(passwords.hash(PASSWORD, "many")) for _ in range(4)]
            await asyncio.sleep(0)
            other = asyncio.create_task(passwords.hash(PASSWORD, "other"))
            many[-1].cancel()  # which is noticed only after the other one has come
            gate.opened.set()
            outcomes = await asyncio.gather(other, *many, return_exceptions=True)
        return [type(outcome).__name__ for outcome in outcomes]

    assert asyncio.run(run()) == ["str", "str", "str", "str", "CancelledError"]
