"""Whether a server does the job that is measured: asked over HTTP, compared with what its database says.

`check` knows nothing of how a server is made. It puts users of its own into the table, asks each route about
them and about those that were there, looks at the rows behind the answers, and takes its users out again.
"""

import json
import secrets
from collections.abc import Callable
from itertools import cycle, islice

import argon2
import httpx
import psycopg
from msgspec import structs

from bench.expect import (
    DifferentError,
    compare,
    compare_all,
    decode,
    differ,
    expect_fields,
    expect_list,
    expect_status,
    expect_type,
)
from bench.trial import NDJSON, PAGE, StoredUser, Trial

PASSWORD = "correct horse"
NOT_OFFERED = (404, 405)
REFUSED = (400, 413, 422)

WALKABLE = 20_000
"""Users of a table up to which its list is walked to the end."""

EXPORTED = 4_000_000
"""Bytes of an export after which no more of it is read."""


def check(
    base_url: str, token: str, database_url: str, *, hash_memory: int = 19456, hash_passes: int = 2
) -> list[str]:
    """Return a line for each part of the contract that the server does not keep, none where it keeps all.

    `hash_memory` (KiB) and `hash_passes` are what it was told to hash with. The table is left as it was.
    Raises psycopg.Error where the database cannot be asked.
    """
    mark = f"contract-{secrets.token_hex(4)}-"
    with (
        psycopg.connect(database_url, autocommit=True) as database,
        # It has no TLS, and to load certificates takes 30 ms.
        httpx.Client(base_url=base_url, timeout=30, verify=False) as http,
    ):
        trial = Trial(http, f"Bearer {token}", database, mark, hash_memory, hash_passes)
        try:
            trial.add_users()
            return [line for part in (*READING, *WRITING) if (line := find_difference(part, trial))]
        finally:
            trial.remove_users()


def find_difference(part: Callable[[Trial], None], trial: Trial) -> str | None:
    """Return the first thing that is not as this part of the contract says, None where all is."""
    try:
        part(trial)
    except (DifferentError, httpx.HTTPError) as error:
        return f"{part.__name__}: {error or type(error).__name__}"
    return None


def keys(trial: Trial) -> None:
    """Expect that every route wants the key, and that without it nothing is done."""
    before = trial.own()
    path = f"/users/{before[0].id}"
    routes: list[tuple[str, str, object]] = [
        ("GET", path, None),
        ("GET", f"/users/{trial.absent()}", None),
        ("GET", "/users", None),
        ("POST", "/users/lookup", {"ids": [1]}),
        ("PATCH", path, {"display_name": "A stranger"}),
        ("POST", "/users", {"email": f"{trial.mark}keys@example.com", "password": PASSWORD}),
    ]
    for key in ("", f"{trial.key}x", trial.key[:-1], trial.key.replace("Bearer", "Basic")):
        for method, path, body in routes:
            expect_status(trial.send(method, path, key, json=body), [401])
        for method, path in (("GET", "/users/export"), ("POST", "/users/import")):
            expect_status(trial.send(method, path, key), [401, *NOT_OFFERED])
    if trial.own() != before:
        differ("the table after requests without the key", "no change", "one")


def reads(trial: Trial) -> None:
    """Expect a user as it is stored."""
    own = trial.stored("where email like %s order by id limit 12", f"{trial.mark}%")
    for user in trial.stored("order by id limit 12") + own:
        compare(trial.ask("GET", f"/users/{user.id}"), user)


def missing(trial: Trial) -> None:
    """Expect 404 for an id that no user has."""
    path = f"/users/{trial.absent()}"
    expect_status(trial.send("GET", path), [404])
    expect_status(trial.send("PATCH", path, json={"display_name": "Nobody"}), [404])


def limits(trial: Trial) -> None:
    """Expect pages of 1 to 1000 users, and of 100 where no limit is given."""
    for wrong in ("0", "-1", "1001", "ten"):
        expect_status(trial.send("GET", "/users", params={"limit": wrong}), [422])
    for limit, most in ((1, 1), (None, PAGE), (1000, 1000)):
        compare_all(trial.page(limit, None)[0], trial.stored("order by id limit %s", most))


def pages(trial: Trial) -> None:
    """Expect pages that join without gap or overlap."""
    found, cursor = trial.page(7, None)
    for _ in range(3):
        users, cursor = trial.page(7, cursor)
        found += users
    compare_all(found, trial.stored("order by id limit 28"))


def last_page(trial: Trial) -> None:
    """Expect that a full last page says so, and that a user that goes away shifts no page (keyset)."""
    stored = trial.stored("order by id limit %s", WALKABLE + 1)
    if len(stored) > WALKABLE:
        return
    first = trial.own()[0].id
    found, cursor = trial.page(None, None)
    while cursor is not None and len(found) < len(stored):
        if stored[len(found) - 1].id >= first:
            trial.query("delete from users where id = %s returning id", first)
        users, cursor = trial.page(None, cursor)
        compare_all(users, stored[len(found) : len(found) + PAGE])
        found += users
    compare_all(found, stored)
    if cursor is not None:
        differ("next_cursor of the last page", "null", cursor)


def lookup(trial: Trial) -> None:
    """Expect users in the order asked, null where there is none."""
    users = {user.id: user for user in trial.stored("where email like %s", f"{trial.mark}%")}
    absent, some = trial.absent(), list(users)
    most = [*islice(cycle(reversed(some)), 999), absent]
    for ids in (some[:1], [some[5], absent, some[9], some[2], some[5]], most):
        answer = trial.ask("POST", "/users/lookup", json={"ids": ids})
        found = expect_list(expect_fields(answer, ["users"])["users"], "users")
        compare_all(found, [users.get(id_) for id_ in ids])
    expect_status(trial.send("POST", "/users/lookup", json={"ids": [absent] * 1001}), REFUSED)


def patch(trial: Trial) -> None:
    """Expect a change of one field of one user, and of its version and time with it."""
    for name in ("Ada “the first” Lovelace", None, "Ada"):
        before, *others = trial.own()
        answer = trial.ask("PATCH", f"/users/{before.id}", json={"display_name": name})
        after, *others_after = trial.own()
        compare(answer, after.public())
        if after.updated_at <= before.updated_at:
            differ("updated_at after a patch", "a later time", after.updated_at)
        version = before.version + 1
        changed = structs.replace(before, display_name=name, version=version, updated_at=after.updated_at)
        if [after, *others_after] != [changed, *others]:
            expected = f"one of display_name {name} and version {version}, and no other change"
            differ("the rows after a patch", expected, "otherwise")


def durability(trial: Trial) -> None:
    """Expect that a change is committed and on disk before it is answered."""
    id_ = trial.own()[0].id
    state = "select display_name, pg_current_wal_flush_lsn() > %s::pg_lsn from users where id = %s"
    for number in range(20):
        ((start,),) = trial.query("select pg_current_wal_insert_lsn()::text")
        trial.ask("PATCH", f"/users/{id_}", json={"display_name": f"Ada {number}"})
        ((name, is_flushed),) = trial.query(state, start, id_)
        if name != f"Ada {number}":
            differ("a change that was answered", "committed", "not yet")
        if not is_flushed:
            differ("a change that was answered", "flushed, as synchronous_commit = on has it", "not yet")


def creation(trial: Trial) -> None:
    """Expect a new user under the lower-cased email, with a salted hash at the cost that was asked."""
    plain = create(trial, f"{trial.mark}Plain@Example.com", PASSWORD)
    named = create(trial, f"{trial.mark}Named@Example.com", "8 chars.", "Zoë")
    for row, name in ((plain, None), (named, "Zoë")):
        found = (row.display_name, row.is_active, row.version)
        if found != (name, True, 1):
            differ("display_name, is_active and version of a new user", (name, True, 1), found)


def create(trial: Trial, email: str, password: str, name: str | None = None) -> StoredUser:
    """Register a user, with a name where one is given; return its row once answer and hash are right."""
    named = {} if name is None else {"display_name": name}
    response = trial.send("POST", "/users", json={"email": email, "password": password, **named})
    expect_status(response, [201])
    rows = trial.rows("where email = %s", email.lower())
    if not rows:
        differ("the table after POST /users", f"a user {email.lower()}", "none")
    compare(decode(response.content, "POST /users"), rows[0].public())
    location = response.headers.get("location", "none")
    if httpx.URL(location).path != f"/users/{rows[0].id}":
        differ("location", f"/users/{rows[0].id}", location)
    expect_hash(rows[0].hashed_password, password, trial)
    return rows[0]


def expect_hash(hashed: str, password: str, trial: Trial) -> None:
    """Raise DifferentError unless it is argon2id of the password, at the cost that was asked, in one lane."""
    try:
        argon2.PasswordHasher().verify(hashed, password)
        found = argon2.extract_parameters(hashed)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError) as error:
        differ("hashed_password", "argon2id of the password", type(error).__name__)
    cost = (found.type.name, found.memory_cost, found.time_cost, found.parallelism, found.salt_len)
    expected = ("ID", trial.hash_memory, trial.hash_passes, 1, 16)
    if cost != expected:
        differ("hash: type, KiB, passes, lanes, bytes of salt", expected, cost)


def refusals(trial: Trial) -> None:
    """Expect no user for a taken email, for what is no email, and for a short password."""
    before = trial.own()
    taken = {"email": before[-1].email.upper(), "password": PASSWORD}
    expect_status(trial.send("POST", "/users", json=taken), [409])
    invalid = [(f"{trial.mark}{rest}", PASSWORD) for rest in ("", "@", "@@example.com", "a b@example.com")]
    for email, password in [*invalid, (f"{trial.mark}short@example.com", "7 chars")]:
        expect_status(trial.send("POST", "/users", json={"email": email, "password": password}), [422])
    if trial.own() != before:
        differ("the table after refusals", "no change", "one")


def export(trial: Trial) -> None:
    """Expect all users by id, one a line, where the server offers it."""
    content = bytearray()
    with trial.http.stream("GET", "/users/export", headers={"Authorization": trial.key}) as response:
        if response.status_code in NOT_OFFERED:
            return
        expect_status(response, [200])
        expect_type(response, NDJSON)
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > EXPORTED:
                break
    *lines, _ = bytes(content).split(b"\n")
    most = len(lines) if len(content) > EXPORTED else None
    compare_all([decode(line, "a line") for line in lines], trial.stored("order by id limit %s", most))


def imports(trial: Trial) -> None:
    """Expect users with ready hashes under lower-cased emails, where the server offers imports."""
    hashed = argon2.PasswordHasher(1, 8, 1).hash(PASSWORD)
    names: list[dict[str, str | None]] = [{}, {"display_name": None}, {"display_name": 'Zoë "\\\u2028'}]
    emails = [f"{trial.mark}Import-{number}@Example.com" for number in range(len(names))]
    lines = [
        json.dumps({"email": email, "hashed_password": hashed, **name}) + "\n"
        for email, name in zip(emails, names, strict=True)
    ]
    response = trial.send("POST", "/users/import", lines="".join(lines))
    if response.status_code in NOT_OFFERED:
        return
    expect_status(response, [200])
    if '"created":3' not in response.text.replace(" ", ""):
        differ("the answer to an import", '"created": 3', response.text)
    stored = [(row.email, row.display_name) for row in trial.own() if row.hashed_password == hashed]
    expected = [(email.lower(), name.get("display_name")) for email, name in zip(emails, names, strict=True)]
    if sorted(stored) != expected:
        differ("the rows after an import", expected, stored)
    refuse_import(trial, hashed)


def refuse_import(trial: Trial, hashed: str) -> None:
    """Expect no user for what is no email, which the table's own rule would take."""
    email = f"{trial.mark}import@example..com"
    bad = json.dumps({"email": email, "hashed_password": hashed}) + "\n"
    expect_status(trial.send("POST", "/users/import", lines=bad), [200, *REFUSED])
    if trial.query("select id from users where email = %s", email):
        differ("the table after an import of what is no email", "no such user", "one")


READING = (keys, reads, missing, limits, pages, lookup, export)
WRITING = (patch, durability, creation, refusals, imports, last_page)
