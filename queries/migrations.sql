-- name: set_lock_timeout :exec
-- Bounds every wait for a lock in this transaction; milliseconds.
select set_config('lock_timeout', (:milliseconds::bigint)::text, true);

-- name: outlast :one
-- Lets no limit of a role or a database end this transaction while it waits; each version has those that it knows.
select count(set_config(name, '0', true)) as settings
from pg_settings
where name in ('idle_in_transaction_session_timeout', 'transaction_timeout', 'statement_timeout');

-- name: describe_place :one
-- Where tables would be made, and whether they can be.
select
    current_schema()::text as schema,
    current_setting('search_path') as search_path,
    coalesce(current_user::text, '') as role,
    coalesce(has_schema_privilege(current_schema(), 'create'), false) as may_create,
    pg_is_in_recovery() as is_standby,
    current_setting('transaction_read_only')::boolean as is_read_only;

-- name: lock_migrations :exec
-- One migration run at a time; the lock is held until the transaction ends, so it works through PgBouncer too.
select pg_advisory_xact_lock(hashtextextended('bareline migrations', 0));

-- name: has_checksums :one
-- Whether this database has ever been migrated.
select to_regclass('migration_checksums') is not null as present;

-- name: list_checksums :many
-- What was applied, in order, with the checksum of its file.
select migration_id, checksum
from migration_checksums
order by migration_id;

-- name: create_checksum :exec
-- Remembers the file that was applied.
insert into migration_checksums (migration_id, checksum)
values (:migration_id, :checksum);

-- name: delete_checksum :exec
-- Forgets a file that was rolled back.
delete from migration_checksums
where migration_id = :migration_id;
