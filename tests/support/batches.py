"""What batchers send to the database."""

from collections.abc import Sequence

from svc.postgres.pool import Database
from svc.postgres.queries import Row
from svc.postgres.statements import Query

Sent = list[tuple[str, int]]
"""The name of each query, and how many keys it names."""


class Recorder:
    """An Executor that notes what goes to the database behind it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sent: Sent = []

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        """Return the first row, or None."""
        self.sent.append((query.name, count_keys(arguments)))
        return await self.database.fetch_one(query, arguments)

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        """Return all rows."""
        self.sent.append((query.name, count_keys(arguments)))
        return await self.database.fetch_all(query, arguments)

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        """Return the number of rows that were changed."""
        self.sent.append((query.name, count_keys(arguments)))
        return await self.database.change(query, arguments)


def count_keys(arguments: Sequence[object]) -> int:
    """Return how many keys are asked for: a list of them comes first, perhaps as PostgreSQL writes arrays."""
    keys = arguments[0]
    if isinstance(keys, str) and keys.startswith("{"):
        return keys.count(",") + 1
    return len(keys) if isinstance(keys, list) else 1
