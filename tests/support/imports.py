"""What the tests of imports share."""

import json
from collections.abc import Callable
from typing import Any

import argon2
import httpx

Sql = Callable[..., list[tuple[Any, ...]]]

PATH = "/users/import"
NDJSON = {"Content-Type": "application/x-ndjson"}
HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HASH = HASHER.hash("correct horse")
SALT, DIGEST = HASH.split("$")[-2:]


def line(email: str, **fields: Any) -> bytes:
    """A line without its end; with a ready hash unless another password is given."""
    ready = {} if "password" in fields or "hashed_password" in fields else {"hashed_password": HASH}
    return json.dumps({"email": email, **ready, **fields}).encode()


def lines(count: int, name: str = "user") -> bytes:
    """A body of so many good lines."""
    return b"".join(line(f"{name}{n}@example.com") + b"\n" for n in range(count))


def post(client: httpx.Client, body: Any) -> dict[str, Any]:
    """What an import answers."""
    answer = client.post(PATH, content=body, headers=NDJSON)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(found: dict[str, Any]) -> dict[int, set[str]]:
    """The pointers of each refused line."""
    assert len(found["refused"]) == found["refused_count"]
    return {entry["line"]: {error["pointer"] for error in entry["errors"]} for entry in found["refused"]}


def emails(sql: Sql) -> list[str]:
    """Of all users, in the order of their making."""
    return [email for (email,) in sql("select email from users order by id")]
