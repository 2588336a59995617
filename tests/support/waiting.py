"""Waits for a state, with a deadline: in a thread and on a loop."""

import asyncio
import time
from collections.abc import Callable

DEADLINE = 60.0
"""Seconds after which a state is not going to come: long enough for a machine that is busy with other tests."""


def wait_for(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Wait in this thread until a condition holds. Raises AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


async def until(condition: Callable[[], object]) -> None:
    """Wait on the loop until a condition holds. Raises TimeoutError after the deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.01)
