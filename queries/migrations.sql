-- name: set_lock_timeout :exec
-- Bounds every wait for a lock in this transaction; milliseconds.
select set_config('lock_timeout', (:milliseconds::bigint)::text, true);

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
