-- snippet: row
-- One user, as `StoredUser` has it, up to the profile.
id, email, display_name, is_active, to_rfc3339(created_at) as created_at, version

-- snippet: row_without_profile
{row}, null::jsonb as profile

-- snippet: row_with_profile
-- A profile may be large, so it comes only where it was asked for.
{row}, case when :with_profile then profile end as profile

-- snippet: columns
-- Many users, column by column, as lists in JSON, which takes asyncpg less than half of the time that rows take.
coalesce(json_agg(id), '[]') as id,
coalesce(json_agg(email), '[]') as email,
coalesce(json_agg(display_name), '[]') as display_name,
coalesce(json_agg(is_active), '[]') as is_active,
coalesce(json_agg(to_utc(created_at)), '[]') as created_at

-- snippet: columns_without_profile
{columns}, null::json as profile

-- snippet: stored_columns
{columns}, coalesce(json_agg(version), '[]') as version, null::json as profile

-- snippet: sources
-- What is read of each user for these columns.
id, email, display_name, is_active, created_at

-- snippet: raise_version
-- What every change sets. What others put there comes within what can be shown: a moment; and a version that a client can
-- name, which If-Match looks at.
version = case when version between 0 and 999999999999999998 then version + 1 else 1 end,
created_at = least(greatest(created_at, '0001-01-01 00:00Z'), '9999-12-31 23:59:59.999999Z'),
updated_at = now()

-- snippet: insert_new
insert into users (email, hashed_password, display_name, profile, referred_by)
values (:new.email, :hashed_password, :new.display_name, coalesce(:new.profile::jsonb, '{}'), :new.referred_by)

-- name: create_user :one
-- A new user; the email's constraint answers whether it is taken.
{insert_new}
returning {row_without_profile};

-- name: create_users :many
-- Several new users, those whose email is free: one statement, one commit. It waits no longer than a moment where somebody
-- else is about to commit one of these emails, and fails then; in the order of emails, so that two of these never wait for
-- each other.
insert into users (email, hashed_password, display_name, profile, referred_by)
select new.email, new.hashed_password, new.display_name, '{}', null
from (select set_config('lock_timeout', '50ms', true) as timeout) as patience
join unnest(
    (select :new.email::text[]), (select :new.hashed_password::text[]), (select :new.display_name::text[])
) as new (email, hashed_password, display_name) on patience.timeout is not null
order by new.email
on conflict (email) do nothing
returning {row_without_profile};

-- name: create_user_once :one
-- @secret: key_hash: what is forgotten is found by it, oldest or not, and nobody is told what it was
-- A new user, unless the email is taken, and with it, in the same statement, what a retry of this request is
-- to be answered. What is older than a day is forgotten on the way.
with created as (
    {insert_new}
    on conflict (email) do nothing
    returning id, email, hashed_password, display_name, is_active, created_at, version
), remembered as (
    insert into idempotency_keys (key_hash, body_hash, hashed_password, user_id, email, display_name, created_at)
    select :key.key_hash, :key.body_hash, hashed_password, id, email, display_name, created_at from created
), forgotten as (
    delete from idempotency_keys
    where key_hash in (
        select key_hash from idempotency_keys
        where created_at < now() - interval '1 day'
        limit 100
        for update skip locked
    )
)
select {row_without_profile}
from created;

-- name: get_first_answer :one
-- @hot
-- @secret: hashed_password: the password of a retry is compared with it
-- What the first request with this Idempotency-Key was answered, and what tells whether this is a retry of it; for a day.
select user_id, email, display_name, to_rfc3339(created_at) as created_at, hashed_password, body_hash = :key.body_hash as same_body
from idempotency_keys
where key_hash = :key.key_hash and created_at + interval '1 day' > now();

-- name: forget_answer :execrows
-- @hot
-- Removes what was answered to this Idempotency-Key more than a day ago.
delete from idempotency_keys
where key_hash = :key.key_hash and created_at + interval '1 day' <= now();

-- name: get_user :one
-- @hot
-- One user.
select {row_with_profile}
from users
where id = :id;

-- name: get_users :columns
-- @hot
-- Several users in no order, without profiles: what is asked for at one time goes out as one statement.
select {stored_columns}
from users
where id = any(:ids::text::bigint[]);

-- name: update_user :one
-- @hot
-- Changes what is given: null leaves a column as it is, but for the name, which may become null.
-- Where somebody else has the row locked, this waits, or finds no row.
update users
set email = coalesce(:change.email, email),
    display_name = case when :set_display_name then :change.display_name else display_name end,
    is_active = coalesce(:change.is_active, is_active),
    profile = case when :change.profile::jsonb is null then profile else jsonb_merge_patch(profile, :change.profile) end,
    {raise_version}
where id = :id
    and {common.version_matches}
    and (:waits or exists (select from users where id = :id for no key update skip locked))
returning {row_without_profile};

-- name: update_users :many
-- @hot
-- Small changes of several users, each named once: one statement, one commit. A row that somebody else has locked
-- is skipped, so that no user waits for another. The join is one with the locking, so that it costs so much a row
-- however many there are. Arrays come by a select, whose length the planner does not look at: it would plan each time.
update users
set display_name = case when set_display_name then new_display_name else display_name end,
    is_active = coalesce(new_is_active, is_active),
    {raise_version}
from (
    select change.id as changed_id, change.version as expected_version, set_display_name,
        change.display_name as new_display_name, change.is_active as new_is_active
    from unnest(
        (select :changes.id::bigint[]), (select :changes.version::bigint[]), (select :changes.set_display_name::boolean[]),
        (select :changes.display_name::text[]), (select :changes.is_active::boolean[])
    ) as change (id, version, set_display_name, display_name, is_active)
    join users on users.id = change.id
    order by change.id
    for no key update of users skip locked
) as free
where id = changed_id
    and (expected_version is null or version = expected_version)
returning {row_without_profile};

-- name: delete_user :execrows
-- @hot
-- Removes a user, and what was answered to the retries of its creation.
with forgotten as (
    delete from idempotency_keys
    where user_id = (select id from users where id = :id and {common.version_matches})
)
delete from users
where id = :id
    and {common.version_matches};
