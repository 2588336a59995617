-- snippet: usable
revoked_at is null and (expires_at is null or expires_at > now())

-- name: grant_api_key :execrows
-- Adds scopes to a key that may still be used.
update api_keys
set scopes = array(select distinct scope from unnest(scopes || :scopes::text[]) as scope order by scope)
where {usable} and id = :id;

-- name: rotate_api_key :one
-- A new key in the place of one that may still be used, which then ends: both let in until that moment.
with old as (
    select scopes, name, id, expires_at
    from api_keys
    where {usable} and id = :id
    for update
), ended as (
    update api_keys
    set expires_at = least(old.expires_at, :until)
    from old
    where api_keys.id = old.id
)
insert into api_keys (key_hash, name, scopes, expires_at)
select :key_hash, name, scopes, expires_at
from old
returning id;
