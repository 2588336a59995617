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

-- name: update_user :one
-- @hot
-- Changes what is given: null leaves a column as it is, but for the name, which may become null.
-- The row must still be one of the versions, where any are named (If-Match).
update users
set email = coalesce(:change.email, email),
    display_name = case when :set_display_name then :change.display_name else display_name end,
    is_active = coalesce(:change.is_active, is_active),
    profile = case when :change.profile::jsonb is null then profile else jsonb_merge_patch(profile, :change.profile) end,
    version = version + 1,
    updated_at = now()
where id = :id
    and (:versions::bigint[] is null or version = any(:versions))
returning id, email, display_name, is_active, created_at, null::jsonb as profile, version;

-- name: delete_user :execrows
-- Removes a user, if it is still one of the versions where any are named (If-Match).
delete from users
where id = :id
    and (:versions::bigint[] is null or version = any(:versions));

-- name: count_users :one
-- How many users the filters let through, exactly: reads every one of them.
select count(*) as count
from users
where (:filter.email::text is null or email = :filter.email)
    and (:filter.is_active::boolean is null or is_active = :filter.is_active)
    and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
    and (:filter.created_to::timestamptz is null or created_at < :filter.created_to);

-- name: estimate_users :one
-- The planner's guess at the same count: reads no user at all.
explain (format json)
select
from users
where (:filter.email::text is null or email = :filter.email)
    and (:filter.is_active::boolean is null or is_active = :filter.is_active)
    and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
    and (:filter.created_to::timestamptz is null or created_at < :filter.created_to);

-- name: list_users_by_exact_email :many
-- @hot
-- At most one user. The email leads, so that its unique index is used whatever else is filtered.
select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
from users
where email = :filter.email
    and (:filter.is_active::boolean is null or is_active = :filter.is_active)
    and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
    and (:filter.created_to::timestamptz is null or created_at < :filter.created_to);

-- A page of users comes in one of six orders, each a query of its own that walks one index from where
-- the last page ended (keyset): `:after.…` is null for the first page, and the coalesce then stands for
-- "before everything". A filter is a condition on the rows walked, but for created_at in its own order,
-- where it bounds the walk.

-- name: list_users_by_id :many
-- @hot
-- In the order of their ids.
select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
from users
where id > coalesce(:after.id::bigint, 0)
    and (:filter.is_active::boolean is null or is_active = :filter.is_active)
    and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
    and (:filter.created_to::timestamptz is null or created_at < :filter.created_to)
order by id
limit :limit;

-- name: list_users_by_id_desc :many
-- @hot
-- The newest ids first.
select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
from users
where id <= coalesce(:after.id::bigint - 1, 9223372036854775807)
    and (:filter.is_active::boolean is null or is_active = :filter.is_active)
    and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
    and (:filter.created_to::timestamptz is null or created_at < :filter.created_to)
order by id desc
limit :limit;

-- name: list_users_by_email :many
-- @hot
-- In the byte order of their emails.
select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
from users
where email > coalesce(:after.email, '')
    and (:filter.is_active::boolean is null or is_active = :filter.is_active)
    and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
    and (:filter.created_to::timestamptz is null or created_at < :filter.created_to)
order by email
limit :limit;

-- name: list_users_by_email_desc :many
-- @hot
-- In the reverse byte order of their emails; no character is above U+10FFFF.
select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
from users
where email < coalesce(:after.email, U&'\+10FFFF')
    and (:filter.is_active::boolean is null or is_active = :filter.is_active)
    and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
    and (:filter.created_to::timestamptz is null or created_at < :filter.created_to)
order by email desc
limit :limit;

-- name: list_users_by_created_at :many
-- @hot
-- The oldest first.
select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
from users
where (created_at, id) > (coalesce(:after.created_at::timestamptz, '-infinity'), coalesce(:after.id::bigint, 0))
    and created_at >= coalesce(:filter.created_from::timestamptz, '-infinity')
    and created_at < coalesce(:filter.created_to::timestamptz, 'infinity')
    and (:filter.is_active::boolean is null or is_active = :filter.is_active)
order by created_at, id
limit :limit;

-- name: list_users_by_created_at_desc :many
-- @hot
-- The youngest first.
select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
from users
where (created_at, id) <= (coalesce(:after.created_at::timestamptz, 'infinity'), coalesce(:after.id::bigint - 1, 9223372036854775807))
    and created_at >= coalesce(:filter.created_from::timestamptz, '-infinity')
    and created_at < coalesce(:filter.created_to::timestamptz, 'infinity')
    and (:filter.is_active::boolean is null or is_active = :filter.is_active)
order by created_at desc, id desc
limit :limit;
