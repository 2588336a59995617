-- name: create_api_key :one
-- A new key; the token itself is known to its owner alone.
insert into api_keys (name, key_hash, scopes, expires_at)
values (:name, :key_hash, :scopes, :expires_at)
returning id;

-- name: get_api_key :one
-- @hot
-- @not_null: scopes[]
-- The key behind a token, if it may still be used.
select id, scopes
from api_keys
where key_hash = :key_hash
    and revoked_at is null
    and (expires_at is null or expires_at > now());

-- name: list_api_keys :many
-- @not_null: scopes[]
-- All keys, oldest first, without anything that would let one in.
select id, name, scopes, created_at, expires_at, revoked_at
from api_keys
order by id;

-- name: revoke_api_key :execrows
-- Ends a key for good.
update api_keys
set revoked_at = now()
where id = :id and revoked_at is null;
