-- name: list_columns :many
-- Every column of every table: its type, whether it may be null, whether it is marked secret.
select
    a.attrelid::bigint as relation,
    a.attnum::bigint as number,
    c.relname::text as table_name,
    a.attname::text as name,
    format_type(a.atttypid, a.atttypmod) as type,
    a.attnotnull as not_null,
    coalesce(col_description(a.attrelid, a.attnum) = 'secret', false) as secret,
    a.attidentity = 'a' or a.attgenerated <> '' as generated,
    a.atthasdef or a.attidentity <> '' as has_default,
    f.number is not null as foreign_key,
    n.nspname <> 'pg_catalog' as own
from pg_attribute as a
join pg_class as c on c.oid = a.attrelid
join pg_namespace as n on n.oid = c.relnamespace
left join (select distinct conrelid, unnest(conkey) as number from pg_constraint where contype = 'f') as f
    on f.conrelid = a.attrelid and f.number = a.attnum
where c.relkind in ('r', 'p', 'v', 'm')
    and n.nspname = any(current_schemas(:system))
    and a.attnum > 0
    and not a.attisdropped
order by c.relname, a.attnum;

-- name: list_unique_keys :many
-- The columns of every key that bounds a row to one: unique, whole, valid, of plain columns.
select
    i.indrelid::bigint as relation,
    c.relname::text as table_name,
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
    and i.indpred is null
    and i.indexprs is null
    and (c.relkind = 'p' or not exists (select from pg_inherits as h where h.inhparent = i.indrelid))
    and n.nspname = any(current_schemas(:system))
order by c.relname, columns;

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
