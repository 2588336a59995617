"""Databases for tests, lent one at a time.

To clone a database takes PostgreSQL 26 ms of CPU on a quiet machine, to drop it 6, and its first connection
builds anew what it knows of the catalog, 15 ms. Most tests do no more to it than to leave a few rows: then
it is emptied in 5 ms and lent again. One whose catalog is not what it was, or that is large, is dropped.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg

from svc.config import DatabaseUrl
from tests.support import NUMBERS, TEMPLATE, at

SMALL = 2**20
"""Bytes of tables that are emptied; where there is more, to drop the database is quicker and leaves less behind."""

TABLES = """
select format('%%I.%%I', nspname, relname) from pg_class join pg_namespace n on n.oid = relnamespace
where relkind = 'r' and nspname = any(%s) and not relisshared and has_table_privilege(pg_class.oid, 'select')
    and relname not in ('pg_statistic', 'pg_statistic_ext_data')
order by 1"""
SIZE = "select coalesce(sum(pg_relation_size(oid)), 0) from pg_class where oid = any(%s::regclass[])"
LEAVE = """
select pg_terminate_backend(pid, 60000) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"""
RESTART = """
select setval(seqrelid, seqstart, false) from pg_sequence
join pg_depend on objid = seqrelid and classid = 'pg_class'::regclass and refobjid = any(%s::regclass[])"""
OPTIONS = """
select count(*) from pg_db_role_setting
where setdatabase = (select oid from pg_database where datname = current_database())"""


class Databases:
    """Clones of a template, prepared or as they are, of which each comes to a test with no rows but its first."""

    def __init__(
        self,
        server_url: str,
        admin: Callable[[str], None],
        template: str,
        prepare: Callable[[str], None] | None = None,
    ) -> None:
        self._server_url = server_url
        self._admin = admin
        self._template = template
        self._prepare = prepare
        self._clean: list[Clone] = []

    @contextmanager
    def lend(self) -> Iterator[DatabaseUrl]:
        """Give a database for as long as the block lasts."""
        clone = self._clean.pop() if self._clean else self._make()
        yield clone.url
        if clone.is_emptied():
            self._clean.append(clone)
        else:
            self._drop(clone)

    def close(self) -> None:
        """Drop what was not lent again."""
        while self._clean:
            self._drop(self._clean.pop())

    def _make(self) -> "Clone":
        name = f"{TEMPLATE}_{next(NUMBERS)}"
        self._admin(f"create database {name} template {self._template}")
        url = at(self._server_url, name)
        if self._prepare:
            self._prepare(url)
        return Clone(name, url)

    def _drop(self, clone: "Clone") -> None:
        self._admin(f"drop database {clone.name} with (force)")


class Clone:
    """A database, and what of it may not change: its catalog, and tables that had rows from the first."""

    def __init__(self, name: str, url: DatabaseUrl) -> None:
        self.name = name
        self.url = url
        with psycopg.connect(url, autocommit=True) as connection:
            ours = [name for (name,) in connection.execute(TABLES, [["public"]])]
            catalog = [name for (name,) in connection.execute(TABLES, [["pg_catalog"]])]
            rows = {
                name: connection.execute(f"select from {name} limit 1".encode()).rowcount for name in ours
            }
            self._empty = [name for name, count in rows.items() if not count]
            deletes = (f"t{number} as (delete from {name})" for number, name in enumerate(self._empty))
            self._empty_all = (
                f"with {', '.join(deletes)} select".encode()
            )  # at once: foreign keys are looked at last
            fixed = catalog + [name for name, count in rows.items() if count]
            newest = (f"select count(*), max(xmin::text::bigint) from {name}" for name in fixed)
            self._look = " union all ".join([*newest, f"select ({OPTIONS}), 0"]).encode()
            self._seen = connection.execute(self._look).fetchall()

    def is_emptied(self) -> bool:
        """Make it like new. Returns False where that would take more than to delete a few rows."""
        with suppress(psycopg.Error), psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(LEAVE)
            (size,) = connection.execute(SIZE, [self._empty]).fetchone() or (SMALL,)
            if size < SMALL and connection.execute(self._look).fetchall() == self._seen:
                connection.execute(self._empty_all)
                connection.execute(RESTART, [self._empty])
                return True
        return False
