"""A connection to a database that may be changed: the only kind that sends text, and no service has one."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from svc.config import Config
from svc.postgres.connection import QueryConnection, open_connection


class ScratchConnection(QueryConnection):
    """A connection that runs queries, and sends any text as well."""

    @asynccontextmanager
    async def undone(self, patience: int | None = None) -> AsyncGenerator[None]:
        """Undo what a block does. A statement in it may take `patience` milliseconds, if that is given."""
        transaction = self.transaction()
        await transaction.start()
        try:
            if patience is not None:
                await self.execute(f"set local statement_timeout = {patience}")
            yield
        finally:
            await transaction.rollback()


async def connect(config: Config) -> ScratchConnection:
    """Open one. Raises OSError, TimeoutError or asyncpg's errors."""
    return await open_connection(config, ScratchConnection)
