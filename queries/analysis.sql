-- name: list_constraints :many
-- Every constraint of ours that a row may break, its table and the one that it refers to; a unique index counts as
-- one. The key of an id that the database alone makes cannot be broken.
select k.conrelid::bigint as relation, nullif(k.confrelid, 0)::bigint as referred, k.conname::text as name
from pg_constraint as k
where k.contype in ('p', 'u', 'f', 'c', 'x')
    and k.connamespace = any(current_schemas(false)::regnamespace[])
    and not (k.contype = 'p' and exists (
        select from pg_attribute as a
        where a.attrelid = k.conrelid and a.attnum = any(k.conkey) and a.attidentity = 'a'
    ))
union all
select i.indrelid::bigint as relation, null as referred, c.relname::text as name
from pg_index as i
join pg_class as c on c.oid = i.indexrelid
where i.indisunique
    and c.relnamespace = any(current_schemas(false)::regnamespace[])
    and not exists (select from pg_constraint as k where k.conindid = i.indexrelid);

-- name: list_functions :many
-- The names of PostgreSQL's own functions, and of the functions behind its operators.
select oid::bigint as number, proname::text as name
from pg_proc
where pronamespace = 'pg_catalog'::regnamespace;

-- name: list_operators :many
-- The names of PostgreSQL's own operators.
select oid::bigint as number, oprname::text as name
from pg_operator
where oprnamespace = 'pg_catalog'::regnamespace;

-- name: list_enum_labels :many
-- The labels of every enum, in their order.
select t.typname::text as name, array_agg(e.enumlabel::text order by e.enumsortorder) as labels
from pg_enum as e
join pg_type as t on t.oid = e.enumtypid
group by t.typname;

-- name: get_function_body :one
-- The analysed tree of a function that the check has just made.
select max(prosqlbody::text) as tree
from pg_proc
where proname = :name and pronamespace = pg_my_temp_schema();

-- name: list_views :many
-- What PostgreSQL puts in the place of each view, analysed.
select ev_class::bigint as relation, ev_action::text as tree
from pg_rewrite
where ev_type = '1' and is_instead and ev_class = any(:relations::bigint[]::oid[]);

-- name: list_views_of :many
-- Every view of ours: `v`, or `m` for those that hold rows of their own.
select c.oid::bigint as relation
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where c.relkind = :kind::text::"char" and {catalog.is_ours};

-- name: list_types :many
-- Every type that a value may be of, and whether it is an array of another one.
select oid::bigint as number, typname::text as name, typcategory = 'A' as is_array
from pg_type
where typtype <> 'c' or typcategory = 'A';

-- name: list_altering :many
-- The relations for which an update (2) or an insert (3) does not say alone what is written, and those above: there
-- is a trigger before it or in its place (tgtype is of the bits 2 and 64 for that, 16 and 4 for what it does:
-- catalog/pg_trigger.h), a rule, a view's query or another server.
with recursive altering (relation, statement) as (
    (
        select t.tgrelid, kind.statement
        from pg_trigger as t
        join (values (16, 2), (4, 3)) as kind (bit, statement) on t.tgtype & kind.bit <> 0
        where not t.tgisinternal and t.tgtype & 66 <> 0
        union
        select ev_class, ev_type::text::int from pg_rewrite where rulename <> '_RETURN'
        union
        select c.oid, kind.statement
        from pg_class as c
        cross join (values (2), (3)) as kind (statement)
        where c.relkind in ('f', 'v')
    )
    union
    select i.inhparent, a.statement from altering as a join pg_inherits as i on i.inhrelid = a.relation
)
select relation::bigint as relation, statement from altering;

-- name: list_parents :many
-- The tables that inherit or are a part of another one, with it.
select inhrelid::bigint as relation, inhparent::bigint as parent
from pg_inherits;

-- name: list_expressions :many
-- Every column that has a default or is computed of others, with its expression, analysed.
select adrelid::bigint as relation, adnum::bigint as number, adbin::text as tree
from pg_attrdef;

-- name: list_references :many
-- @not_null: number, other
-- Every column of a foreign key, with the column that has the same values.
select
    k.conrelid::bigint as relation,
    pair.number::bigint as number,
    k.confrelid::bigint as referred,
    pair.other::bigint as other
from pg_constraint as k
cross join unnest(k.conkey, k.confkey) as pair (number, other)
where k.contype = 'f';

-- name: list_routines :many
-- Every function of ours: its body as text or, where PostgreSQL has analysed it, as a tree; of an aggregate, the
-- functions that it is made of.
select
    p.oid::bigint as number,
    p.proname::text as name,
    p.oid::regprocedure::text as signature,
    l.lanname::text as language,
    p.prosrc as source,
    p.prosqlbody::text as tree,
    p.prokind = 'f' as plain,
    pg_get_function_arguments(p.oid) as arguments,
    pg_get_function_result(p.oid) as result,
    array[coalesce(g.aggtransfn::oid, 0), coalesce(g.aggfinalfn::oid, 0)]::bigint[] as parts,
    p.pronargs::int as inputs,
    p.proisstrict as strict,
    r.typtype in ('b', 'e', 'r', 'm') and not p.proretset as scalar
from pg_proc as p
join pg_type as r on r.oid = p.prorettype
join pg_namespace as n on n.oid = p.pronamespace
join pg_language as l on l.oid = p.prolang
left join pg_aggregate as g on g.aggfnoid = p.oid
where {catalog.is_ours} and n.nspname <> all(array(select nspname from pg_namespace where oid = pg_my_temp_schema()));
