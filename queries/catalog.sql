-- snippet: is_ours
n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')

-- name: list_columns :many
-- Every column of every relation: its type, whether it may be null, whether it is marked secret, and the table whose
-- whole rows it holds, if any.
select
    a.attrelid::bigint as relation,
    a.attnum::bigint as number,
    a.attrelid::regclass::text as table_name,
    a.attname::text as name,
    format_type(a.atttypid, a.atttypmod) as type,
    -- One that is not valid yet holds for new rows alone, one that is not inherited not for parts of the table, a
    -- foreign table is believed what it says, and a view's column may be one of an outer join, whatever its domain.
    (a.attnotnull or t.typtype = 'd' and t.typnotnull)
        and c.relkind in ('r', 'p', 'S')
        and w.number is null
        and not (c.relhassubclass and exists (
            select from pg_inherits as h
            join pg_class as p on p.oid = h.inhrelid
            where h.inhparent = c.oid and p.relkind = 'f'
        ))
        as not_null,
    coalesce(col_description(a.attrelid, a.attnum) = 'secret', false) as secret,
    a.attidentity = 'a' or a.attgenerated <> '' as generated,
    a.atthasdef or a.attidentity <> '' as has_default,
    f.number is not null as foreign_key,
    {is_ours} as own,
    nullif(coalesce(e.typrelid, t.typrelid), 0)::bigint as row_of
from pg_attribute as a
join pg_class as c on c.oid = a.attrelid
join pg_namespace as n on n.oid = c.relnamespace
join pg_type as t on t.oid = a.atttypid
left join pg_type as e on e.oid = t.typelem and t.typcategory = 'A'
left join (select distinct conrelid, unnest(conkey) as number from pg_constraint where contype = 'f') as f
    on f.conrelid = a.attrelid and f.number = a.attnum
left join (
    select distinct k.conrelid, unnest(k.conkey) as number
    from pg_constraint as k
    join pg_class as r on r.oid = k.conrelid
    where k.contype = 'n' and not (k.convalidated and (not k.connoinherit or not r.relhassubclass))
) as w
    on w.conrelid = a.attrelid and w.number = a.attnum
where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c')
    and n.nspname <> 'pg_toast'
    and (:system or {is_ours})
    and a.attnum > 0
    and not a.attisdropped
order by c.relname, a.attrelid, a.attnum;

-- name: list_unique_keys :many
-- The columns of every key that bounds a row to one: unique, whole, valid, of plain columns.
select
    i.indrelid::bigint as relation,
    i.indrelid::regclass::text as table_name,
    array(
        select a.attname::text
        from pg_attribute as a
        where a.attrelid = i.indrelid and a.attnum = any(i.indkey[0 : i.indnkeyatts - 1])
        order by a.attname
    ) as columns
from pg_index as i
join pg_class as c on c.oid = i.indrelid
join pg_namespace as n on n.oid = c.relnamespace
where i.indisunique
    and i.indisvalid
    and i.indimmediate
    and i.indpred is null
    and i.indexprs is null
    and (c.relkind = 'p' or not exists (select from pg_inherits as h where h.inhparent = i.indrelid))
    and n.nspname <> 'pg_toast'
    and (:system or {is_ours})
order by c.relname, i.indrelid, columns;

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
where c.relkind = :kind::text::"char" and {is_ours};

-- name: list_array_types :many
-- Every type that is an array of another one.
select oid::bigint as number
from pg_type
where typcategory = 'A';

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
    l.lanname::text as language,
    p.prosrc as source,
    p.prosqlbody::text as tree,
    p.prokind = 'f' as plain,
    pg_get_function_arguments(p.oid) as arguments,
    pg_get_function_result(p.oid) as result,
    array[coalesce(g.aggtransfn::oid, 0), coalesce(g.aggfinalfn::oid, 0)]::bigint[] as parts
from pg_proc as p
join pg_namespace as n on n.oid = p.pronamespace
join pg_language as l on l.oid = p.prolang
left join pg_aggregate as g on g.aggfnoid = p.oid
where {is_ours} and n.nspname <> all(array(select nspname from pg_namespace where oid = pg_my_temp_schema()));
