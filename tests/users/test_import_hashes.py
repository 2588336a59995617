"""Ready hashes of an import: every one of argon2 within bounds, and no other."""

import base64
import itertools

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc.accounts.passwords import PasswordHash
from tests.support.imports import DIGEST, HASH, HASHER, SALT


def make_hash(m: int, t: int, p: int, salt: str = SALT, digest: str = DIGEST) -> str:
    """A PHC string."""
    return f"$argon2id$v=19$m={m},t={t},p={p}${salt}${digest}"


@given(
    st.sampled_from(argon2.Type), st.sampled_from([16, 19]), st.integers(1, 3), st.integers(1, 16),
    st.integers(8, 64), st.binary(min_size=8, max_size=48), st.integers(12, 64),
)  # fmt: skip
def test_every_hash_of_argon2_within_bounds_is_taken_as_it_is(
    type_: argon2.Type, version: int, passes: int, lanes: int, memory: int, salt: bytes, length: int
) -> None:
    hashed = argon2.low_level.hash_secret(
        b"x", salt, passes, memory * lanes, lanes, length, type_, version
    ).decode()
    assert PasswordHash.parse(hashed) == hashed
    assert HASH not in repr(PasswordHash(hashed))


BASE64 = st.text("ABCDwxyz0189+/=-_", max_size=24)


@given(
    st.sampled_from(["", "i", "d", "id", "x"]),
    st.sampled_from([16, 18, 19]),
    st.integers(0, 9),
    st.integers(0, 2),
    st.integers(0, 2),
    BASE64,
    BASE64,
)
def test_every_hash_that_is_taken_can_be_checked(
    kind: str, version: int, memory: int, passes: int, lanes: int, salt: str, digest: str
) -> None:
    hashed = f"$argon2{kind}$v={version}$m={memory},t={passes},p={lanes}${salt}${digest}"
    try:
        PasswordHash.parse(hashed)
    except ValueError:
        return
    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        HASHER.verify(hashed, "wrong")


@pytest.mark.parametrize(
    "hashed",
    [
        "secret",
        "",
        HASH + "\n",
        HASH[:-2],  # no base64 has this length; of one character less a 16th is some
        HASH + "=",
        HASH.replace("argon2id", "argon2x"),
        HASH.replace("v=19", "v=18"),
        HASH.replace("$v=19", ""),
        "$2b$12$" + "x" * 53,
        make_hash(0, 1, 1),
        make_hash(7, 1, 1),
        make_hash(15, 1, 2),
        make_hash(262_145, 1, 1),
        make_hash(262_144, 5, 1),
        make_hash(4_194_304, 1, 1),
        make_hash(8, 131_073, 1),
        make_hash(8, 10**9, 1),
        make_hash(1024, 1, 17),
        make_hash(8, 1, 1, salt="c2FsdA"),
        make_hash(8, 1, 1, salt="A" * 100),
        make_hash(8, 1, 1, digest="AAAA"),
        make_hash(8, 1, 1, digest="A" * 1000),
        make_hash(8, 1, 1, digest=base64.b64encode(b"x" * 32).decode()),
        make_hash(8, 1, 1, digest="_" * 43),
    ],
    ids=itertools.count(),  # the salts differ each time
)
def test_a_hash_that_is_none_or_costs_too_much_is_refused(hashed: str) -> None:
    with pytest.raises(ValueError, match="Expected"):
        PasswordHash.parse(hashed)
    PasswordHash.parse(make_hash(262_144, 4, 16))
