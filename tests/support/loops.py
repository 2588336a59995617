"""Tests on an event loop of their own."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Return a test that runs an async one."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


async def take_turns(number: int = 10) -> None:
    """Let the loop turn so many times: whatever needs no answer from outside is over then."""
    for _ in range(number):
        await asyncio.sleep(0)
