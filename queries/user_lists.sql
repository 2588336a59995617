-- name: look_up_users_by_id :columns
-- @hot
-- The users with these ids, in no order.
select {users.columns_without_profile}
from users
where id = any(:ids::text::bigint[]);

-- name: look_up_users_by_email :columns
-- @hot
-- The same by their emails.
select {users.columns_without_profile}
from users
where email = any(:emails::text[]);

-- name: get_user_by_email :one
-- @hot
-- One user by email.
select {users.row_with_profile}
from users
where email = :email;

-- name: get_users_by_email :columns
-- @hot
-- Several users by their emails, without profiles: one statement for what is asked at one time.
select {users.stored_columns}
from users
where email = any(:emails::text[]);

-- A filter is a condition on the rows walked, but for created_at in its own order, where it bounds the walk.

-- snippet: is_active
(:filter.is_active::boolean is null or is_active = :filter.is_active)

-- snippet: filters
{is_active}
and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
and (:filter.created_to::timestamptz is null or created_at < :filter.created_to)

-- snippet: filters_and_email
(:filter.email::text is null or email = :filter.email)
and {filters}

-- snippet: filters_by_created_at
created_at >= coalesce(:filter.created_from::timestamptz, '-infinity')
and created_at <= coalesce(:filter.created_to::timestamptz - interval '1 microsecond', 'infinity')
and {is_active}

-- name: count_users :one
-- How many users the filters let through, exactly: reads every one of them.
select count(*) as count
from users
where {filters_and_email};

-- name: estimate_users :one
-- The planner's guess at the same count: reads no user at all.
explain (format json)
select
from users
where {filters_and_email};

-- A page of users comes in one of six orders, each a query of its own that walks one index from where
-- the last page ended (keyset): `:after.…` is null for the first page, and the coalesce then stands for
-- "before everything".

-- snippet: page
-- Profiles, which may be large, come where they are wanted.
{users.columns},
json_agg(profile) filter (where :with_profile) as profile

-- name: list_users_by_id :columns
-- @hot
-- @unindexed: filter.is_active, filter.created_from, filter.created_to: rows are walked until the page is full
-- In the order of their ids.
select {page}
from (
    select {users.sources}, profile
    from users
    where id > coalesce(:after.id::bigint, '-9223372036854775808')
        and {filters}
    order by id
    limit :limit
) as page;

-- name: list_users_by_id_desc :columns
-- @hot
-- @unindexed: filter.is_active, filter.created_from, filter.created_to: rows are walked until the page is full
-- The newest ids first.
select {page}
from (
    select {users.sources}, profile
    from users
    where id <= coalesce(:after.id::bigint - 1, 9223372036854775807)
        and {filters}
    order by id desc
    limit :limit
) as page;

-- name: list_users_by_email :columns
-- @hot
-- @unindexed: filter.is_active, filter.created_from, filter.created_to: rows are walked until the page is full
-- In the byte order of their emails; the next text behind one is that with U+0001 at its end.
select {page}
from (
    select {users.sources}, profile
    from users
    where email >= coalesce(:after.email || chr(1), '')
        and {filters}
    order by email
    limit :limit
) as page;

-- name: list_users_by_email_desc :columns
-- @hot
-- @unindexed: filter.is_active, filter.created_from, filter.created_to: rows are walked until the page is full
-- In the reverse byte order of their emails.
select {page}
from (
    select {users.sources}, profile
    from users
    where email < coalesce(:after.email, (select max(email) || '!' from users))
        and {filters}
    order by email desc
    limit :limit
) as page;

-- snippet: created_at_of_last
-- Where a page ended, as it is stored, with one whose moment is not shown as it is. Where that one has gone, the walk
-- goes on where moments of its kind begin: some of them come twice, none is left out.
(select created_at from users where id = :after.id)

-- name: list_users_by_created_at :columns
-- @hot
-- @unindexed: filter.is_active: rows are walked until the page is full
-- The oldest first.
select {page}
from (
    select {users.sources}, profile
    from users
    where (created_at, id) > (coalesce(:after.created_at::timestamptz, {created_at_of_last}, case when :after.late::boolean then '9999-12-31 23:59:59.999999Z'::timestamptz else '-infinity' end), coalesce(:after.id::bigint, '-9223372036854775808'))
        and {filters_by_created_at}
    order by created_at, id
    limit :limit
) as page;

-- name: list_users_by_created_at_desc :columns
-- @hot
-- @unindexed: filter.is_active: rows are walked until the page is full
-- The youngest first.
select {page}
from (
    select {users.sources}, profile
    from users
    where (created_at, id) <= (coalesce(:after.created_at::timestamptz, {created_at_of_last}, case when not :after.late::boolean then '0001-01-01 00:00Z'::timestamptz else 'infinity' end), coalesce(:after.id::bigint - 1, 9223372036854775807))
        and {filters_by_created_at}
    order by created_at desc, id desc
    limit :limit
) as page;
