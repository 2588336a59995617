-- name: get_writability :one
-- Whether this connection's server takes writes: false on a replica and after a failover left us behind.
select not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off' as writable;
