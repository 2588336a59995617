"""What the check takes to give no null gives none: each form of it is called with values of all kinds."""

from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

import psycopg
import pytest

from svc.check.nulls import CALLED_ON_NULL, CASTS, JSON, TOTAL_FUNCTIONS, TOTAL_OPERATORS
from svc.database_url import DatabaseUrl
from tests.support import skip_before_18

VALUES = {
    "bigint": ["0", "-1", "7", "9223372036854775807"],
    "integer": ["0", "-1", "3", "1000"],
    "smallint": ["0", "-1", "2"],
    "numeric": ["0", "-1.5", "2", "'NaN'", "'Infinity'", "'-Infinity'"],
    "double precision": ["0", "-1.5", "2", "'NaN'", "'Infinity'", "'-Infinity'"],
    "real": ["0", "-1.5", "'NaN'", "'Infinity'"],
    "boolean": ["true", "false"],
    "text": ["''", "'a'", "'day'", "'UTC'", "'%'", "'1'", "'hex'"],
    "character": ["''", "'a'"],
    "character varying": ["''", "'a'"],
    "name": ["''", "'utf8'"],
    "bytea": ["''", "'\\x00ff'"],
    "bit": ["b'0'", "b'1'"],
    "bit varying": ["b''", "b'101'"],
    "json": ["'null'", "'1'", "'[]'", "'{}'", "'\"a\"'"],
    "jsonb": ["'null'", "'1'", "'[]'", "'{}'", "'\"a\"'"],
    "date": ["'2026-01-31'", "'infinity'", "'-infinity'"],
    "timestamp without time zone": ["'2026-01-31 12:00'", "'infinity'", "'-infinity'"],
    "timestamp with time zone": ["'2026-01-31 12:00Z'", "'infinity'", "'-infinity'"],
    "time without time zone": ["'00:00'", "'24:00'"],
    "time with time zone": ["'00:00Z'"],
    "interval": ["'0'", "'-1 month 3 days'", "'infinity'"],
    "uuid": ["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
    "inet": ["'::1'", "'10.0.0.0/8'"],
    "cidr": ["'10.0.0.0/8'"],
    "oid": ["0", "23"],
    "xid": ["'0'"],
    "text[]": ["'{}'", "'{a,null}'", "'{{a},{b}}'"],
    "anyarray": ["'{}'::int[]", "'{1,null}'::int[]", "'{{1},{2}}'::int[]"],
    "anycompatiblearray": ["'{}'::int[]", "'{1,null}'::int[]"],
    "anyelement": ["1"],
    "anycompatible": ["1"],
    '"any"': ["1", "'a'::text"],
    "anyrange": ["'empty'::int4range", "'(,)'::int4range", "'[1,2)'::int4range"],
    "anymultirange": ["'{}'::int4multirange", "'{(,)}'::int4multirange"],
    "anyenum": [],
    "record": ["row(1)", "row(null)"],
    "int4range": ["'empty'", "'(,)'", "'[1,2)'"],
    "tsvector": ["''", "'a b'"],
    "tsquery": ["''", "'a & b'"],
    "money": ["'0'", "'-1.5'"],
    "regtype": ["'int4'"],
    "integer[]": ["'{}'", "'{2}'"],
    "regclass": ["'pg_class'"],
    "macaddr": ["'08:00:2b:01:02:03'"],
    "pg_lsn": ["'0/0'"],
    "point": ["'(0,0)'", "'(NaN,NaN)'"],
    "box": ["'((0,0),(1,1))'"],
    "polygon": ["'((0,0),(1,1))'"],
    "circle": ["'<(0,0),1>'"],
    "lseg": ["'((0,0),(1,1))'"],
    "path": ["'((0,0),(1,1))'"],
    "tid": ["'(0,0)'"],
    "jsonpath": ["'$'"],
}
"""Values of each type, those at the edge above all."""

MOST = 100
"""Calls of each form."""

ACTING = {"nextval", "set_config"}
"""What changes something when it is called."""

FUNCTIONS = """
select proname, coalesce(array_agg(format_type(t, null) order by n) filter (where t is not null), '{}'), provariadic <> 0
from pg_proc left join unnest(proargtypes) with ordinality as u (t, n) on true
where proname = any(%s) and pronamespace = 'pg_catalog'::regnamespace and prokind = 'f' and not proretset
group by pg_proc.oid, proname order by proname, pg_proc.oid
"""

OPERATORS = """
select oprname, format_type(oprleft, null), format_type(oprright, null)
from pg_operator where oprname = any(%s) and oprnamespace = 'pg_catalog'::regnamespace and oprleft <> 0
order by oprname, oid
"""


PROBE = """
create function pg_temp.is_null(expression text) returns boolean language plpgsql as $$
declare found boolean;
begin
    execute 'select (' || expression || ') is null' into found;
    return found;
exception when others then
    return false;
end $$
"""

Run = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def run(server_url: DatabaseUrl) -> Iterator[Run]:
    """Runs a statement: `run("select …", argument)` gives rows."""
    skip_before_18(server_url)
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(PROBE.encode())
        yield lambda statement, *arguments: connection.execute(statement.encode(), arguments).fetchall()


def find_nulls(run: Run, calls: list[str]) -> list[str]:
    """Those of some expressions that are null; what ends in an error is none."""
    return [call for (call,) in run("select c from unnest(%s::text[]) as c where pg_temp.is_null(c)", calls)]


def cast(type_: str) -> list[str]:
    """The values of a type, each as an expression of it."""
    return [value if "any" in type_ else f"{value}::{type_}" for value in VALUES.get(type_, [])]


def make_calls(name: str, types: list[str], variadic: bool) -> list[str]:
    """Calls of one form of a function, with as many combinations of values as there is time for."""
    values = [*map(cast, types)]
    if variadic:
        values[-1:] = [["1", "'a'::text"]] * 2
    return [f"{name}({', '.join(each)})" for each in islice(product(*values), MOST)]


def test_no_total_function_gives_a_null(run: Run) -> None:
    with_values, nulls = set(), []
    names = [*(TOTAL_FUNCTIONS - ACTING)]
    for name, types, variadic in run(FUNCTIONS, names):
        if name in CASTS and types[0] in ("json", "jsonb"):
            continue
        calls = make_calls(f'"{name}"', types, variadic)
        with_values |= {name} if calls else set()
        nulls += find_nulls(run, calls)
    assert nulls == []
    assert {*names} - with_values == set()


def test_no_total_operator_gives_a_null(run: Run) -> None:
    tried, nulls = set(), []
    for name, left, right in run(OPERATORS, [*TOTAL_OPERATORS]):
        calls = [f"{a} operator(pg_catalog.{name}) {b}" for a, b in product(cast(left), cast(right))]
        tried |= {name} if calls else set()
        nulls += find_nulls(run, calls) if left != "path" or name != "+" else []
    assert nulls == []
    assert tried == TOTAL_OPERATORS


def test_what_is_called_on_null_gives_none(run: Run) -> None:
    calls = {
        "array_append": "(null::int[], null)", "array_prepend": "(null, null::int[])", "concat": "(null)",
        "json_build_array": "(null)", "json_build_object": "('a', null)", "jsonb_build_array": "(null)",
        "jsonb_build_object": "('a', null)", "quote_nullable": "(null::text)",
    }  # fmt: skip
    assert calls.keys() == CALLED_ON_NULL
    assert find_nulls(run, [f"{name}{given}" for name, given in calls.items()]) == []


def test_what_is_told_apart_may_be_null(run: Run) -> None:
    """A cast of JSON's null, and two closed paths together."""
    closed = "path '((0,0),(1,1))'"
    assert find_nulls(run, [f"{closed} + {closed}"]) != []
    types = ("bool", "int2", "int4", "int8", "numeric", "float4", "float8")
    assert set(types) == CASTS
    assert JSON[1] == "3802"
    assert len(find_nulls(run, [f"'null'::jsonb::{name}" for name in types])) == len(types)
