"""What the query contract costs a call: `python -m bench.bound_query`.

One connection, one point read at a time: `users.get_user(id=…)` beside what one would write by hand, a
prepared statement's `fetchrow` and `StoredUser(*row)`. The two take turns, block by block; what counts is
the ratio of each pair of blocks, and their median.
"""

import argparse
import statistics
import time
from collections.abc import Awaitable, Callable

import uvloop

from bench.database import make_table, start_cluster
from bench.processes import watched_folder
from svc.check.scratch import connect
from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.postgres.statements import load
from svc.users.handlers import UserQueries
from svc.users.rows import StoredUser

ROWS = 100_000


async def measure(url: DatabaseUrl, blocks: int, calls: int) -> None:
    """Print µs a call of both ways, and the median ratio."""
    connection = await connect(Config(database_url=url))
    users = UserQueries.bind(connection)
    statement = await connection.prepare(load("users.sql")["get_user"].sql)

    async def bound(id_: int) -> StoredUser | None:
        return await users.get_user(id=id_, with_profile=False)

    async def by_hand(id_: int) -> StoredUser | None:
        row = await statement.fetchrow(False, id_)  # in the order in which the SQL names them
        return None if row is None else StoredUser(*row)

    async def run(call: Callable[[int], Awaitable[StoredUser | None]], first: int) -> float:
        started = time.perf_counter()
        for number in range(calls):
            await call(first + number)
        return (time.perf_counter() - started) / calls * 1e6

    pairs = [(await run(bound, 1), await run(by_hand, 1)) for _ in range(blocks + 1)][1:]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"bound {ours:.1f} µs, by hand {theirs:.1f} µs, median ratio {ratio:.3f} of {blocks} pairs")
    await connection.close()


def main() -> None:
    """Start a server with 100,000 rows, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=100)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    with watched_folder() as folder, start_cluster(folder / "data") as cluster:
        url = DatabaseUrl(make_table(cluster, ROWS).url)
        uvloop.run(measure(url, options.blocks, options.calls))


if __name__ == "__main__":
    main()
