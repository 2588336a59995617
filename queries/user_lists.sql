-- Pages and look-ups come as JSON made by PostgreSQL, each user on a line of its own: such JSON has no line feed in
-- it. A page of 100 costs 74 µs of CPU here and 260 µs in PostgreSQL, where rows that become structs and then JSON
-- cost 274 µs and 93 µs: less in all, and it is this process that has but one core.

-- name: look_up_users_by_id :many
-- @hot
-- The users with these ids, in no order, each as JSON.
select id, row_to_json(shown)::text as user
from (
    select id, email, display_name, is_active, rfc3339(created_at) as created_at
    from users
    where id = any(:ids::bigint[])
) as shown;

-- name: look_up_users_by_email :many
-- @hot
-- The same by their emails.
select email, row_to_json(shown)::text as user
from (
    select id, email, display_name, is_active, rfc3339(created_at) as created_at
    from users
    where email = any(:emails::text[])
) as shown;

-- name: get_user_by_email :one
-- @hot
-- One user by email; the profile only where it was asked for.
select id, email, display_name, is_active, created_at,
    case when :with_profile then profile end as profile, version
from users
where email = :email;

-- name: get_users_by_email :many
-- @hot
-- Several users by their emails, without profiles: one statement for what is asked at one time.
select id, email, display_name, is_active, created_at, null::jsonb as profile, version
from users
where email = any(:emails::text[]);

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

-- A page of users comes in one of six orders, each a query of its own that walks one index from where
-- the last page ended (keyset): `:after.…` is null for the first page, and the coalesce then stands for
-- "before everything". A filter is a condition on the rows walked, but for created_at in its own order,
-- where it bounds the walk. Profiles come apart, a line each, where they are wanted.

-- name: list_users_by_id :one
-- @hot
-- In the order of their ids.
select string_agg(row_to_json(shown)::text, E'\n') as users, string_agg(profile::text, E'\n') as profiles
from (
    select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
    from users
    where id > coalesce(:after.id::bigint, 0)
        and (:filter.is_active::boolean is null or is_active = :filter.is_active)
        and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
        and (:filter.created_to::timestamptz is null or created_at < :filter.created_to)
    order by id
    limit :limit
) as page
cross join lateral (
    select page.id, page.email, page.display_name, page.is_active, rfc3339(page.created_at) as created_at
) as shown;

-- name: list_users_by_id_desc :one
-- @hot
-- The newest ids first.
select string_agg(row_to_json(shown)::text, E'\n') as users, string_agg(profile::text, E'\n') as profiles
from (
    select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
    from users
    where id <= coalesce(:after.id::bigint - 1, 9223372036854775807)
        and (:filter.is_active::boolean is null or is_active = :filter.is_active)
        and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
        and (:filter.created_to::timestamptz is null or created_at < :filter.created_to)
    order by id desc
    limit :limit
) as page
cross join lateral (
    select page.id, page.email, page.display_name, page.is_active, rfc3339(page.created_at) as created_at
) as shown;

-- name: list_users_by_email :one
-- @hot
-- In the byte order of their emails.
select string_agg(row_to_json(shown)::text, E'\n') as users, string_agg(profile::text, E'\n') as profiles
from (
    select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
    from users
    where email > coalesce(:after.email, '')
        and (:filter.is_active::boolean is null or is_active = :filter.is_active)
        and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
        and (:filter.created_to::timestamptz is null or created_at < :filter.created_to)
    order by email
    limit :limit
) as page
cross join lateral (
    select page.id, page.email, page.display_name, page.is_active, rfc3339(page.created_at) as created_at
) as shown;

-- name: list_users_by_email_desc :one
-- @hot
-- In the reverse byte order of their emails; no character is above U+10FFFF.
select string_agg(row_to_json(shown)::text, E'\n') as users, string_agg(profile::text, E'\n') as profiles
from (
    select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
    from users
    where email < coalesce(:after.email, U&'\+10FFFF')
        and (:filter.is_active::boolean is null or is_active = :filter.is_active)
        and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
        and (:filter.created_to::timestamptz is null or created_at < :filter.created_to)
    order by email desc
    limit :limit
) as page
cross join lateral (
    select page.id, page.email, page.display_name, page.is_active, rfc3339(page.created_at) as created_at
) as shown;

-- name: list_users_by_created_at :one
-- @hot
-- The oldest first.
select string_agg(row_to_json(shown)::text, E'\n') as users, string_agg(profile::text, E'\n') as profiles
from (
    select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
    from users
    where (created_at, id) > (coalesce(:after.created_at::timestamptz, '-infinity'), coalesce(:after.id::bigint, 0))
        and created_at >= coalesce(:filter.created_from::timestamptz, '-infinity')
        and created_at < coalesce(:filter.created_to::timestamptz, 'infinity')
        and (:filter.is_active::boolean is null or is_active = :filter.is_active)
    order by created_at, id
    limit :limit
) as page
cross join lateral (
    select page.id, page.email, page.display_name, page.is_active, rfc3339(page.created_at) as created_at
) as shown;

-- name: list_users_by_created_at_desc :one
-- @hot
-- The youngest first.
select string_agg(row_to_json(shown)::text, E'\n') as users, string_agg(profile::text, E'\n') as profiles
from (
    select id, email, display_name, is_active, created_at, case when :with_profile then profile end as profile
    from users
    where (created_at, id) <= (coalesce(:after.created_at::timestamptz, 'infinity'), coalesce(:after.id::bigint - 1, 9223372036854775807))
        and created_at >= coalesce(:filter.created_from::timestamptz, '-infinity')
        and created_at < coalesce(:filter.created_to::timestamptz, 'infinity')
        and (:filter.is_active::boolean is null or is_active = :filter.is_active)
    order by created_at desc, id desc
    limit :limit
) as page
cross join lateral (
    select page.id, page.email, page.display_name, page.is_active, rfc3339(page.created_at) as created_at
) as shown;
