"""A connection to a database that may be changed: the only kind that sends text, and no service has one."""

from svc.config import Config
from svc.postgres.connection import QueryConnection, open_connection


class ScratchConnection(QueryConnection):
    """A connection that runs queries, and sends any text as well."""


async def connect(config: Config) -> ScratchConnection:
    """Open one. Raises OSError, TimeoutError or asyncpg's errors."""
    return await open_connection(config, ScratchConnection)
