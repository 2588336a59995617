-- name: create_user :one
-- A new user; the email's constraint answers whether it is taken.
insert into users (email, hashed_password, display_name, profile, referred_by)
values (:new.email, :hashed_password, :new.display_name, coalesce(:new.profile::jsonb, '{}'), :new.referred_by)
returning id, email, display_name, is_active, created_at, null::jsonb as profile, version;

-- name: create_user_once :one
-- A new user, unless the email is taken, and with it, in the same statement, what a retry of this request is
-- to be answered. What is older than a day is forgotten on the way.
with created as (
    insert into users (email, hashed_password, display_name, profile, referred_by)
    values (:new.email, :hashed_password, :new.display_name, coalesce(:new.profile::jsonb, '{}'), :new.referred_by)
    on conflict (email) do nothing
    returning id, email, hashed_password, display_name, is_active, created_at, version
), remembered as (
    insert into idempotency_keys (key_hash, body_hash, hashed_password, user_id, email, display_name, created_at)
    select :retry.key_hash, :retry.body_hash, hashed_password, id, email, display_name, created_at from created
), forgotten as (
    delete from idempotency_keys
    where key_hash in (
        select key_hash from idempotency_keys
        where created_at < now() - interval '1 day'
        limit 100
        for update skip locked
    )
)
select id, email, display_name, is_active, created_at, null::jsonb as profile, version
from created;

-- name: get_first_answer :one
-- @hot
-- What the first request with this Idempotency-Key was answered, and what tells whether this is a retry of it.
select user_id, email, display_name, created_at, hashed_password, body_hash = :retry.body_hash as same_body
from idempotency_keys
where key_hash = :retry.key_hash;

-- name: get_user :one
-- @hot
-- One user; the profile only where it was asked for, since it may be large.
select id, email, display_name, is_active, created_at,
    case when :with_profile then profile end as profile, version
from users
where id = :id;

-- name: get_users :many
-- @hot
-- Several users in no order, without profiles: what is asked for at one time goes out as one statement.
select id, email, display_name, is_active, created_at, null::jsonb as profile, version
from users
where id = any(:ids::bigint[]);

-- name: update_user :one
-- @hot
-- Changes what is given: null leaves a column as it is, but for the name, which may become null.
-- The row must still be one of the versions, where any are named (If-Match). Where somebody else has it locked,
-- this waits, or finds no row.
update users
set email = coalesce(:change.email, email),
    display_name = case when :set_display_name then :change.display_name else display_name end,
    is_active = coalesce(:change.is_active, is_active),
    profile = case when :change.profile::jsonb is null then profile else jsonb_merge_patch(profile, :change.profile) end,
    version = version + 1,
    updated_at = now()
where id = :id
    and (:versions::bigint[] is null or version = any(:versions))
    and (:waits or exists (select from users where id = :id for no key update skip locked))
returning id, email, display_name, is_active, created_at, null::jsonb as profile, version;

-- name: update_users :many
-- @hot
-- Small changes of several users, each named once: one statement, one commit. A row that somebody else has locked
-- is skipped, so that no user waits for another. The join is one with the locking, so that it costs so much a row
-- however many there are.
update users
set display_name = case when free.set_display_name then free.display_name else users.display_name end,
    is_active = coalesce(free.is_active, users.is_active),
    version = users.version + 1,
    updated_at = now()
from (
    select change.id, expected_version, set_display_name, change.display_name, change.is_active
    from unnest(
        :changes.ids::bigint[], :changes.versions::bigint[], :changes.set_display_names::boolean[],
        :changes.display_names::text[], :changes.are_active::boolean[]
    ) as change (id, expected_version, set_display_name, display_name, is_active)
    join users on users.id = change.id
    order by change.id
    for no key update of users skip locked
) as free
where users.id = free.id
    and (free.expected_version is null or users.version = free.expected_version)
returning users.id, users.email, users.display_name, users.is_active, users.created_at,
    null::jsonb as profile, users.version;

-- name: delete_user :execrows
-- Removes a user, if it is still one of the versions where any are named (If-Match).
delete from users
where id = :id
    and (:versions::bigint[] is null or version = any(:versions));
