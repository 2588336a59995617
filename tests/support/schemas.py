"""What a schema is, as PostgreSQL tells it."""

from typing import Any

import psycopg

from svc.config import Config

SCHEMA = """
with ours as (
    select * from pg_class
    where relnamespace = 'public'::regnamespace and relname !~ '^_?yoyo' and relkind in ('r', 'i', 'S', 'v')
)
select 'relation', relname::text, concat_ws(' ', relkind, relpersistence, relacl, reloptions) from ours
union all select 'column', relname, concat_ws(' ', attnum, attname, format_type(atttypid, atttypmod),
        attnotnull, attidentity, attgenerated, attcollation::regcollation, pg_get_expr(adbin, adrelid))
    from ours join pg_attribute on attrelid = ours.oid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where attnum > 0 and not attisdropped and relkind = 'r'
union all select 'constraint', conname, pg_get_constraintdef(c.oid)
    from ours join pg_constraint as c on conrelid = ours.oid
union all select 'index', relname, pg_get_indexdef(oid) from ours where relkind = 'i'
union all select 'comment', relname, concat_ws(' ', objsubid, description)
    from ours join pg_description on objoid = ours.oid and classoid = 'pg_class'::regclass
union all select 'function', proname, concat_ws(' ', pg_get_functiondef(oid), obj_description(oid), proacl)
    from pg_proc where pronamespace = 'public'::regnamespace
union all select 'trigger', relname, pg_get_triggerdef(t.oid)
    from ours join pg_trigger as t on tgrelid = ours.oid where not tgisinternal
order by 1, 2, 3
"""


def read_schema(config: Config, query: str = SCHEMA) -> list[tuple[Any, ...]]:
    """Return everything that migrations could have made, or what another query finds."""
    with psycopg.connect(str(config.database_url), autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def count_tables(config: Config, name: str) -> int:
    """Return how many tables there are of that name."""
    return len(read_schema(config, f"select 1 from pg_class where relname = '{name}'"))
