"""Tests on an event loop of their own."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

K = TypeVar("K")
R = TypeVar("R")


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Return a test that runs an async one."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


def submit(
    submit_: Callable[[K, Callable[[R | None, Exception | None], None]], None], key: K
) -> "asyncio.Future[R | None]":
    """Ask as a plain request does, with a callback; the future has what it is told."""
    future: asyncio.Future[R | None] = asyncio.get_running_loop().create_future()

    def tell(row: R | None, error: Exception | None) -> None:
        future.set_exception(error) if error else future.set_result(row)

    submit_(key, tell)
    return future


async def take_turns(number: int = 10) -> None:
    """Let the loop turn so many times: whatever needs no answer from outside is over then."""
    for _ in range(number):
        await asyncio.sleep(0)
