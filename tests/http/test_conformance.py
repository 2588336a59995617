"""HTTP/1.1 as its RFCs have it: the table, sent raw, with the short cut and without, whole and in pieces."""

import itertools
from collections.abc import Iterator

import pytest

from svc.config import Config
from tests.http.conformance.table import CASES, MUST, Case
from tests.support import CHECKOUT, Service, with_settings
from tests.support.raw import Ground, Wire, get, normalise, serve, status_of
from tests.support.things import serve_things


def make_service(ground: Ground, *, short_cut: bool) -> Service:
    """A service, and its key known to it: a key's first request goes the long way."""
    config: Config = with_settings(ground.config, short_cut=short_cut)
    return serve_things(config)


@pytest.fixture(scope="module")
def both(ground: Ground) -> Iterator[list[Service]]:
    """Two services on one database, with the short cut and without; ids of one length."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svc.http.headers.COUNTER", itertools.count(1 << 24))
        yield from serve_both(ground)


def serve_both(ground: Ground) -> Iterator[list[Service]]:
    """The same, whatever their ids."""
    with make_service(ground, short_cut=True) as hot, make_service(ground, short_cut=False) as stock:
        yield [hot, stock]


def ask(service: Service, ground: Ground, pieces: list[bytes], *, to_head: bool) -> tuple[bytes, bytes]:
    """The answer, and what comes for the next request, where the connection is kept."""
    with Wire(service) as wire:
        wire.ask(get("/things/1", ground.bearer))
        wire.send(*pieces)
        answer = wire.read(to_head=to_head)
        wire.send(get("/health/live", "Connection: close"))
        return answer, wire.read_all()


def test_there_are_many_cases() -> None:
    assert len(CASES) > 200
    assert len({(case.section, case.what) for case in CASES}) == len(CASES)
    assert sum(case.level == MUST for case in CASES) > 150


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section} {case.what}")
def test_the_answer_is_what_the_rfcs_ask_for(both: list[Service], ground: Ground, case: Case) -> None:
    raw = case.raw.replace("{key}", ground.bearer).encode("latin-1")
    to_head, third = case.raw.startswith("HEAD"), len(raw) // 3
    heard = {
        normalise(answer)
        for service in both
        for pieces in ([raw], [raw[:third], raw[third:]])
        for answer, after in [ask(service, ground, pieces, to_head=to_head)]
        if check(case, answer, after)
    }
    assert len(heard) == 1, heard


def check(case: Case, answer: bytes, after: bytes) -> bool:
    """Compares one answer, and whether the connection goes on."""
    assert status_of(answer) in case.statuses, answer
    if case.ends is not None:
        assert (status_of(after) == 0) == case.ends, (answer, after)
    return True


MUSTS = [case for case in CASES if case.level == MUST]
PATIENCE = 3.0
"""Seconds after which nothing is going to be answered."""


@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_what_uvicorn_itself_answers_is_told(
    ground: Ground, pytestconfig: pytest.Config, parser: str
) -> None:
    """The same app on uvicorn's own protocols, held to the same table."""
    if not pytestconfig.getoption("--full"):
        pytest.skip("waits for answers that do not come: --full")
    with serve(ground.config, http=parser) as service:
        green = [case for case in MUSTS if is_met(service, ground, case)]
    told = (CHECKOUT / "docs/hardening.md").read_text(encoding="utf-8")
    assert f"{len(green)} of {len(MUSTS)} with {parser}" in told, [*set(MUSTS) - set(green)]


def is_met(service: Service, ground: Ground, case: Case) -> bool:
    """Whether a case is answered as the table allows, whole and in pieces."""
    raw = case.raw.replace("{key}", ground.bearer).encode("latin-1")
    third = len(raw) // 3
    try:
        return all(
            check(case, *ask_any(service, ground, pieces, to_head=case.raw.startswith("HEAD")))
            for pieces in ([raw], [raw[:third], raw[third:]])
        )
    except AssertionError:
        return False


def ask_any(service: Service, ground: Ground, pieces: list[bytes], *, to_head: bool) -> tuple[bytes, bytes]:
    """As `ask`, of a server that may answer nothing, and whose answer may go to the end of the connection."""
    with Wire(service, PATIENCE) as wire:
        try:
            wire.ask(get("/things/1", ground.bearer))
            wire.send(*pieces)
            answer = wire.read(to_head=to_head)
            if b"content-length" not in answer and b"connection: close" in answer:
                return answer, b""
            wire.send(get("/health/live", "Connection: close"))
            return answer, wire.read_all()
        except TimeoutError:
            return b"", b""
