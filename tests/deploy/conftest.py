"""Two services on one database, and proxies before both."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from tests.support import Service
from tests.support.databases import Databases
from tests.support.proxies import KINDS, Proxy, Start, run_proxy, serve_pair
from tests.support.raw import Ground


@pytest.fixture(scope="module")
def ground(databases: Databases) -> Iterator[Ground]:
    """The ground that all tests of a module stand on: nine users, and keys for them."""
    with databases.lend() as url:
        yield Ground(url, "users")


@pytest.fixture(scope="module")
def pair(ground: Ground) -> Iterator[list[Service]]:
    """The two that all tests of a module share."""
    with serve_pair(ground) as services:
        yield services


@pytest.fixture(scope="module")
def start(pair: Sequence[Service], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Give a proxy of some kind, which is started once. Skips where it is not installed."""
    started: dict[str, Proxy] = {}
    with ExitStack() as stack:

        def find(name: str) -> Proxy:
            if name not in started:
                folder, kind = tmp_path_factory.mktemp("proxy"), KINDS[name]
                addresses = [service.address for service in pair]
                started[name] = stack.enter_context(run_proxy(kind.name, folder, addresses, kind.changes))
            return started[name]

        yield find
