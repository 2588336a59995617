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
where key_hash = :key_hash and {usable};

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

-- snippet: usable
revoked_at is null and (expires_at is null or expires_at > now())

-- name: grant_api_key :execrows
-- Adds scopes to a key that may still be used.
update api_keys
set scopes = array(select distinct scope from unnest(scopes || :scopes::text[]) as scope order by scope)
where id = :id and {usable};

-- name: rotate_api_key :one
-- A new key in the place of one that may still be used, which then ends: both let in until that moment.
with old as (
    select id, name, scopes, expires_at
    from api_keys
    where id = :id and {usable}
    for update
), ended as (
    update api_keys
    set expires_at = least(old.expires_at, :until)
    from old
    where api_keys.id = old.id
)
insert into api_keys (name, key_hash, scopes, expires_at)
select name, :key_hash, scopes, expires_at
from old
returning id;
