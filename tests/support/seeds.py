"""What the tests of made-up users share."""

import asyncio
from collections.abc import Callable
from typing import Any

from svc.config import Config
from svc.users.seed import seed

Sql = Callable[..., list[tuple[Any, ...]]]


def fill(config: Config, count: int, number: int = 1) -> None:
    """Run `svc seed COUNT --seed NUMBER`."""
    asyncio.run(seed(config, count, number))


def digest(sql: Sql, column: str = "users", count: int = 10**9) -> str:
    """Return one text for all columns, or one of them, of the first users."""
    rows = f"select md5(string_agg(coalesce({column}::text, '-'), ',' order by id)) from users where id <= {count}"
    return str(sql(rows)[0][0])


def ask(sql: Sql, expression: str, rest: str = "") -> Any:
    """Return one value."""
    ((value,),) = sql(f"select {expression} from users {rest}")
    return value
