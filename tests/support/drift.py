"""Changes a schema in every way that drift can, one at a time: does `svc check` name the queries it hits?

`python -m tests.support.drift` prints the table that docs/why-not-an-orm.md shows. What a change does to a query is
judged without the check: by PostgreSQL's own description of the statement before and after it, by the table
and column that PostgreSQL says each result column comes from, and, where rows must be written to see it, by
the lists below.
"""

import asyncio
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from svc.check.command import QUICK, Pair, prove_all, read_pairs
from svc.check.drift import compare
from svc.check.laboratory import fill
from svc.check.prove import declared_columns, find_body, read_schema
from svc.check.rollout import read_shape
from svc.check.scratch import ScratchConnection as Connection
from svc.check.scratch import connect
from svc.check.types import split_optional
from svc.database_url import DatabaseUrl
from svc.embedded import EmbeddedServer
from svc.migrations import migrate
from svc.postgres.mapping import is_struct
from svc.postgres.proven import read_written
from tests.support import RESOURCES, at, make_config

TABLES = ("users", "api_keys", "idempotency_keys", "migration_checksums")

FILES = re.compile(r"(?:api_keys|catalog|health|migrations|seed|user\w*)\.sql")
"""Those whose queries are judged: the product's own, and the machinery's."""

OTHER_TYPES = {
    "bigint": ("numeric", "{}::numeric"),
    "text": ("bytea", "convert_to({}, 'UTF8')"),
    "boolean": ("text", "{}::text"),
    "jsonb": ("text", "{}::text"),
    "bytea": ("text", "encode({}, 'hex')"),
    "text[]": ("text", "{}[1]"),
    "timestamp with time zone": ("timestamp", "{}::timestamp"),
}

WRITERS = {
    "users.display_name": {
        "create_user",
        "create_user_once",
        "create_users",
        "import_users",
        "seed_users",
        "update_user",
    },
    "users.referred_by": {  # on delete set null
        "create_user",
        "create_user_once",
        "create_users",
        "delete_user",
        "import_users",
        "seed_users",
    },
    "api_keys.expires_at": {"create_api_key"},
    "api_keys.revoked_at": {"create_api_key"},
    "idempotency_keys.display_name": {"create_user_once"},
}
"""Who may write a null into a column that takes one."""

RUNNING = {"users": {"analyze_users", "lock_users", "renew_users"}}
"""Who names a table in a statement that PostgreSQL looks at only as it runs."""

DEFAULTED = {
    "users.id": {"import_users"},
    "users.is_active": {"import_users"},
}
"""Who inserts without a column, and gives it out nowhere; its default goes with a change of type."""

RENDERING = {
    "create_user", "create_user_once", "create_users", "export_users", "export_users_as_csv", "get_first_answer", "get_user",
    "get_user_by_email", "get_users", "get_users_by_email", "list_users_by_created_at",
    "list_users_by_created_at_desc", "list_users_by_email", "list_users_by_email_desc", "list_users_by_id",
    "list_users_by_id_desc", "look_up_users_by_email", "look_up_users_by_id", "update_user", "update_users",
}  # fmt: skip
"""Who gives out a moment."""

DERIVED = {
    "idempotency_keys.body_hash": {"get_first_answer"},
    "idempotency_keys.created_at": {"get_first_answer"},
    # A line of CSV is there without it, and a change sets another one.
    "users.profile": {name for name in RENDERING if name.startswith("list_users")},
    "users.created_at": RENDERING
    - {"get_first_answer", "export_users_as_csv", "update_user", "update_users"},
}
"""Who makes a column out of this one that is null where it is."""

FILTERED = {
    "users.email": {
        "create_user",
        "create_user_once",
        "get_user_by_email",
        "get_users_by_email",
        "list_users_by_email",
        "list_users_by_email_desc",
        "look_up_users_by_email",
    },
    "users.created_at": {"list_users_by_created_at", "list_users_by_created_at_desc"},
}
"""Who gives a column out but no null of it: their `where` compares it, or it is what they are given."""

AGGREGATED = ("email", "display_name", "is_active", "version")
"""The columns of users that `:columns` queries give out as they are, each where its field has the name."""

KEYS = {
    "users_pkey": {
        "get_user",
        "update_user",
        "create_user",
        "create_user_once",
        "create_users",
        "import_users",
        "delete_user",
        "list_users_by_created_at",
        "list_users_by_created_at_desc",
    },
    "users_email_key": {
        "get_user_by_email",
        "create_user",
        "create_user_once",
        "create_users",
        "import_users",
        "update_user",
    },
    "api_keys_key_hash_key": {"get_api_key", "create_api_key"},
    "idempotency_keys_pkey": {"get_first_answer", "forget_answer", "create_user_once"},
    "migration_checksums_pkey": {"create_checksum"},
}
"""Who finds one row at most because of a key, who is refused by it, and by what it takes along."""

REFERRING = {
    "users.referred_by": frozenset(["delete_user"]),
    "users.id": frozenset(["import_users"]),
}
"""Who relies on keys of this column, which have another definition then, or are gone."""

CHECKED = {
    "users.created_at": frozenset(["import_users"]),
    "users.updated_at": frozenset(["create_user", "create_user_once", "create_users", "import_users"]),
}
"""Who relies on a check of this column, which has another one's name then, or is gone; not on its type."""

INDEXES = {
    "users_pkey": {
        "export_users",
        "export_users_as_csv",
        "get_last_id",
        "get_users",
        "list_users_by_id",
        "list_users_by_id_desc",
        "lock_referrers",
        "look_up_users_by_id",
        "update_users",
    },
    "users_email_key": {
        "get_users_by_email",
        "list_users_by_email",
        "list_users_by_email_desc",
        "look_up_users_by_email",
    },
    "users_created_at_id_idx": {"list_users_by_created_at", "list_users_by_created_at_desc"},
}
"""Who is marked hot and walks an index."""

CONSTRAINED = {
    "users.email": "alter table users drop constraint users_email_is_canonical; ",
    "users.display_name": "alter table users drop constraint users_display_name_is_a_line; ",
    "users.profile": "alter table users drop constraint users_profile_is_object; ",
    "users.id": "alter table users drop constraint users_referred_by_fkey; ",
    "users.referred_by": "alter table users drop constraint users_referred_by_fkey; ",
}
"""What a change of type must take away first."""

NOT_CAST = ("boolean", "jsonb")
"""Types whose default does not follow a change of type."""

FILL = {"text": "'x'", "bigint": "id % 4000 + 1", "timestamp with time zone": "now()"}
"""What a column holds that may hold no null any more."""

ROWS = 4000

COLUMNS = """
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef,
    a.attidentity <> '',
    exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary and a.attnum = any(i.indkey))
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relname = any(%s) and a.attnum > 0 order by 1, a.attnum
"""

DEPENDS = """
select distinct d.refobjid::regclass || '.' || a.attname
from pg_depend d join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where d.objid = 'pg_temp.body'::regproc and d.refobjsubid > 0
"""

INSERTED = re.compile(r"insert into (\w+)\s*\(([^)]*)\)")
"""Columns that an insert fills, which PostgreSQL does not count among those that a function depends on."""

NUMBERS = """
select a.attrelid, a.attnum, c.relname || '.' || a.attname
from pg_attribute a join pg_class c on c.oid = a.attrelid where c.relkind = 'r'
"""

HARMLESS = [
    *(f"alter table {table} add column extra text" for table in TABLES),
    *(f"alter table {table} add column extra bigint not null default 0" for table in TABLES),
    "create index extra on users (display_name)",
    "drop index users_created_at_id_idx; create index on users (created_at, id) include (email)",
    "alter table users add column a jsonb, add column b numeric(3, 2), add column c text[]",
    "create table extra (id bigint primary key)",
    "alter index users_created_at_id_idx rename to extra",
    "alter table users alter column profile drop default",
    "comment on column users.email is 'an address'",
    "drop index idempotency_keys_created_at_idx",
]

CREATORS = {"create_user", "create_user_once", "create_users", "import_users"}
UPDATERS = {"update_user", "update_users"}
DELETERS = {"delete_user"}

TOLD: dict[str, dict[str, set[str]]] = {
    "change a default": {
        "alter table users alter is_active set default false": CREATORS,
        "alter table users alter created_at set default 'epoch'": CREATORS,
        "alter table users alter version drop default, alter version set default 7": CREATORS,
        "alter table users alter id set generated by default": CREATORS,
        "alter table api_keys alter created_at set default 'epoch'": {"create_api_key"},
        "alter table migration_checksums alter applied_at set default 'epoch'": {"create_checksum"},
    },
    "change a constraint": {
        "alter table users alter constraint users_referred_by_fkey deferrable": CREATORS | DELETERS,
        "alter table users drop constraint users_referred_by_fkey, add constraint users_referred_by_fkey"
        " foreign key (referred_by) references users on delete cascade": CREATORS | DELETERS,
        "alter table users drop constraint users_referred_by_fkey, add constraint users_referred_by_fkey"
        " foreign key (referred_by) references users on delete set null not valid": CREATORS | DELETERS,
        "alter table users alter constraint users_referred_by_fkey not enforced": CREATORS | DELETERS,
        "alter table users drop constraint users_profile_is_small": CREATORS | {"update_user"},
        "alter table users drop constraint users_profile_is_small, add constraint users_profile_is_small"
        " check (octet_length(profile::text) < 10) not valid": CREATORS | {"update_user"},
        "alter table users rename constraint users_profile_is_object to extra": CREATORS | {"update_user"},
    },
    "add a constraint": {
        "alter table users add constraint extra check (length(display_name) < 100)": CREATORS | UPDATERS,
        "alter table users add constraint extra exclude (version with =) where (version < 0)": CREATORS
        | UPDATERS,
        "create unique index extra on users (id, email)": CREATORS | {"update_user"},
        "create table extra (user_id bigint references users)": DELETERS,
        "alter table api_keys add constraint extra check (coalesce(revoked_at, 'infinity') > 'epoch')": {
            "create_api_key",
            "revoke_api_key",
        },
    },
    "add a trigger or a rule": {
        "create trigger extra before insert on users for each row execute function idle()": CREATORS,
        "create trigger extra after update of profile on users execute function idle()": {"update_user"},
        "create trigger extra after delete or update of is_active on users execute function idle()": DELETERS
        | UPDATERS,
        "create rule extra as on delete to users do instead nothing": DELETERS,
        "create rule extra as on insert to api_keys do also notify made": {"create_api_key"},
    },
    "change a function": {
        "create or replace function to_utc(moment timestamptz) returns timestamp language sql stable"
        " return moment::timestamp": RENDERING,
        "create or replace function jsonb_merge_patch(target jsonb, patch jsonb) returns jsonb language sql"
        " as 'select patch'": {"update_user"},
    },
    "hide rows": {
        "alter table api_keys enable row level security": {
            "create_api_key",
            "get_api_key",
            "list_api_keys",
            "revoke_api_key",
        },
    },
    "lose a mark": {
        "comment on column users.hashed_password is null": CREATORS,
        "comment on column api_keys.key_hash is 'secert'": {"create_api_key", "get_api_key"},
    },
    "drop an index of references": {"drop index users_referred_by_idx": DELETERS},
}
"""What shows neither in types nor in plans, and for whom it matters all the same."""

HIDDEN = {
    "timestamp with time zone": ["timestamp", "timestamptz(0)"],
    "text": ["varchar(100)", 'text collate "POSIX"'],
    "bigint": ["int"],
}
"""Types behind which an implicit cast hides the one that was meant, and other collations."""


class Mutant(NamedTuple):
    """A change, and whom it hits in a way that the description of a statement does not show."""

    kind: str
    statement: str
    hit: frozenset[str] = frozenset()


class Verdict(NamedTuple):
    """A change, whom it really hits, and whom the check names."""

    mutant: Mutant
    hit: set[str]
    named: set[str]


def make_mutants(url: DatabaseUrl, pairs: Sequence[Pair]) -> list[Mutant]:
    """Every change of every table, column, key and index of ours."""
    with psycopg.connect(url) as connection:
        columns = connection.execute(COLUMNS, [list(TABLES)]).fetchall()
    origins, dependents = find_origins(url, pairs), find_dependents(url, pairs)
    mutants = [
        Mutant("rename a table", f"alter table {table} rename to renamed", frozenset(RUNNING.get(table, ())))
        for table in TABLES
    ]
    for table, column, type_, not_null, default, identity, primary in columns:
        alter, name = f"alter table {table}", f"{table}.{column}"
        referring = REFERRING.get(name, frozenset())
        bound = referring | CHECKED.get(name, frozenset())
        mutants.append(Mutant("rename a column", f"{alter} rename column {column} to renamed", bound))
        mutants.append(Mutant("drop a column", f"{alter} drop column {column} cascade", bound))
        other, cast = OTHER_TYPES[type_]
        prelude = f"{alter} alter column {column} drop identity; " if identity else ""
        prelude += f"{alter} alter column {column} drop default; " if default and type_ in NOT_CAST else ""
        change = f"{prelude}{alter} alter column {column} type {other} using {cast.format(column)}"
        users = frozenset(dependents.get(name, set()) | DEFAULTED.get(name, set()) | referring)
        mutants.append(Mutant("change a type", CONSTRAINED.get(name, "") + change, users))
        hit = {query for query, optional in origins.get(name, {}).items() if optional != not_null}
        if not_null and not primary:
            mutants.append(
                Mutant(
                    "drop a not null",
                    f"{alter} alter column {column} drop not null",
                    frozenset((hit | DERIVED.get(name, set())) - FILTERED.get(name, set())),
                )
            )
        elif not not_null:
            fill = f"update {table} set {column} = {FILL[type_]} where {column} is null; "
            writers = frozenset(hit | WRITERS.get(name, set()))
            mutants.append(
                Mutant("add a not null", f"{fill}{alter} alter column {column} set not null", writers)
            )
    for key in sorted(KEYS.keys() | INDEXES.keys()):
        table = next(table for table in TABLES if key.startswith(table))
        index = (
            f"drop index {key}"
            if key.endswith("_idx")
            else f"alter table {table} drop constraint {key} cascade"
        )
        kind = "drop a unique key" if key in KEYS else "drop a hot index"
        mutants.append(Mutant(kind, index, frozenset(KEYS.get(key, set()) | INDEXES.get(key, set()))))
    for table, column, type_, *_ in columns:
        for other in HIDDEN.get(type_, ()):
            name, users = f"{table}.{column}", dependents.get(f"{table}.{column}", set())
            change = f"{CONSTRAINED.get(name, '')}alter table {table} alter column {column} type {other}"
            users = users | DEFAULTED.get(name, set()) | REFERRING.get(name, frozenset())
            mutants.append(Mutant("hide a type", change, frozenset(users)))
    told = [(kind, *each) for kind, statements in TOLD.items() for each in statements.items()]
    mutants += [Mutant(kind, statement, frozenset(hit)) for kind, statement, hit in told]
    return mutants + [Mutant("harmless", statement) for statement in HARMLESS]


def find_dependents(url: DatabaseUrl, pairs: Sequence[Pair]) -> dict[str, set[str]]:
    """For each column of a table: the served queries that depend on it, as PostgreSQL says of functions."""
    found: dict[str, set[str]] = {}
    served = read_written().queries
    with psycopg.connect(url) as connection:
        for query, _ in pairs:
            connection.pgconn.prepare(b"q", query.sql.encode())
            types = connection.pgconn.describe_prepared(b"q")
            numbers = [types.param_type(number) for number in range(types.nparams)]
            connection.execute("deallocate q")
            names = connection.execute(
                "select array_agg(format_type(t, null)) from unnest(%s::oid[]) t", [numbers]
            )
            (declared,) = names.fetchone() or (None,)
            body = find_body(query.sql)
            head = f"create function pg_temp.body({', '.join(declared or ())}) returns void"
            connection.execute(f"{head} begin atomic {body}; end".encode())
            names = {name for (name,) in connection.execute(DEPENDS).fetchall()}
            for table, columns in INSERTED.findall(query.sql):
                names |= {f"{table}.{column.strip()}" for column in columns.split(",")}
            for name in names if query.name in served else ():
                found.setdefault(name, set()).add(query.name)
            connection.rollback()
    return found


def find_origins(url: DatabaseUrl, pairs: Sequence[Pair]) -> dict[str, dict[str, bool]]:
    """For each column of a table: the queries that give it out as it is, and whether their field may be None.

    PostgreSQL's row descriptions name the table and the number of a column that is plainly one of a table; of
    an array it names none.
    """
    found: dict[str, dict[str, bool]] = {}
    with psycopg.connect(url) as connection:
        names = {(oid, number): name for oid, number, name in connection.execute(NUMBERS).fetchall()}
        for query, signature in pairs:
            connection.pgconn.prepare(b"q", query.sql.encode())
            result = connection.pgconn.describe_prepared(b"q")
            connection.execute("deallocate q")
            columns = declared_columns(signature)
            fields = list(columns.values())
            for column in AGGREGATED if query.kind == "columns" else ():
                if column in columns:
                    found.setdefault(f"users.{column}", {})[query.name] = split_optional(columns[column])[1]
            for index in range(result.nfields if is_struct(signature.row) else 0):
                if name := names.get((result.ftable(index), result.ftablecol(index))):
                    found.setdefault(name, {})[query.name] = split_optional(fields[index])[1]
    return found


async def read_shapes(connection: Connection, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Of each query, on this schema."""
    return {query.name: await read_shape(connection, query) for query, _ in pairs}


async def judge(
    url: DatabaseUrl, mutant: Mutant, pairs: Sequence[Pair], before: Mapping[str, Any]
) -> Verdict:
    """Makes the change in a database of its own, and compares whom it hits with whom the check names."""
    connection = await connect(make_config(url))
    try:
        await connection.execute(mutant.statement)
        after = await read_shapes(connection, pairs)
        hit = {name for name, shape in before.items() if shape != after[name]} | (mutant.hit & before.keys())
        findings, _, now = await prove_all(connection, pairs, filled=True)
    finally:
        await connection.close()
    named = {finding.query for finding in findings} | {each.query for each in compare(read_written(), now)}
    return Verdict(mutant, hit, named & before.keys())


def run() -> Iterator[Verdict]:
    """Judges every mutant, on a server of its own."""
    pairs, wrong = read_pairs(RESOURCES)
    assert not wrong
    pairs = [(query, signature) for query, signature in pairs if FILES.fullmatch(query.path.name)]
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder), QUICK) as server:
        url = DatabaseUrl(server.url)
        before = asyncio.run(prepare(url, pairs))
        mutants = make_mutants(at(url, "filled"), pairs)
        with psycopg.connect(url, autocommit=True) as admin:
            for mutant in mutants:
                admin.execute("create database mutant template filled strategy file_copy")
                yield asyncio.run(judge(at(url, "mutant"), mutant, pairs, before))
                admin.execute("drop database mutant with (force)")


async def prepare(url: DatabaseUrl, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Makes a database with our schema and rows, to be copied; the shapes of the queries there."""
    admin = await connect(make_config(url))
    await admin.execute("create database filled")
    await admin.close()
    config = make_config(at(url, "filled"))
    await migrate(config)
    connection = await connect(config)
    await connection.execute(
        "create function idle() returns trigger language plpgsql as 'begin return new; end'"
    )
    await fill(connection, await read_schema(connection), set(TABLES), ROWS)
    before = await read_shapes(connection, pairs)
    await connection.close()
    return before


def tabulate(verdicts: Sequence[Verdict]) -> str:
    """The table of docs/why-not-an-orm.md."""
    lines = [
        "| change | made | change a query | all of those named | others named |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind in dict.fromkeys(verdict.mutant.kind for verdict in verdicts):
        made = [verdict for verdict in verdicts if verdict.mutant.kind == kind]
        meant = [verdict for verdict in made if verdict.hit]
        exact = sum(verdict.hit <= verdict.named for verdict in meant)
        alarms = sum(bool(verdict.named - verdict.hit) for verdict in made)
        lines.append(f"| {kind} | {len(made)} | {len(meant)} | {exact} | {alarms} |")
    return "\n".join(lines)


if __name__ == "__main__":
    judged = []
    for verdict in run():
        judged.append(verdict)
        if verdict.hit != verdict.named:
            missed, alarms = verdict.hit - verdict.named, verdict.named - verdict.hit
            print(f"{verdict.mutant.statement}: missed {missed or '-'}, in vain {alarms or '-'}", flush=True)
    print(tabulate(judged))
