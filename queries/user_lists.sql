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
where email = any((select :emails::text[])::text[]);

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
where email = any((select :emails::text[])::text[]);

-- snippet: filters
(:filter.email::text is null or email = :filter.email)
and (:filter.is_active::boolean is null or is_active = :filter.is_active)
and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
and (:filter.created_to::timestamptz is null or created_at < :filter.created_to)

-- name: count_users :one
-- How many users the filters let through, exactly: reads every one of them.
select count(*) as count
from users
where {filters};

-- name: estimate_users :one
-- The planner's guess at the same count: reads no user at all.
explain (format json)
select
from users
where {filters};

-- Pages of users come in one of six orders, each a query of its own that walks one index from where the last page
-- ended (keyset): what `asked` has of a position is null for the first page, and the coalesce then stands for "before
-- everything". Several pages are asked for in one statement, each with its own filters, and come in the same order.
--
-- One plan must do for all of them, or PostgreSQL plans each time, which takes half as long as to read a page. So it is shown nothing
-- that it could count on: arrays come by a select, or it would look at their lengths; a filter that is not there is "not
-- distinct from false", which it takes to let all rows through; and a limit of no more than 1001 is written down, for by
-- its own guess, a tenth of the table, sorting all of it may look cheaper than to walk an index.

-- snippet: asked
-- None of its columns has the name of one of users, which it would stand for where that one is gone.
unnest(
    (select :pages.after_id::bigint[]), (select :pages.after_email::text[]), (select :pages.after_moment::timestamptz[]),
    (select :pages.after_late::boolean[]), (select :pages.size::int[]), (select :pages.with_profile::boolean[]),
    (select :pages.active::boolean[]), (select :pages.created_from::timestamptz[]), (select :pages.created_to::timestamptz[])
) with ordinality
    as asked (after_id, after_email, after_moment, after_late, size, with_profile, active, created_from, created_to, number)

-- snippet: pages
-- Each column has a list for each page.
coalesce(json_agg(id), '[]') as id,
coalesce(json_agg(email), '[]') as email,
coalesce(json_agg(display_name), '[]') as display_name,
coalesce(json_agg(is_active), '[]') as is_active,
coalesce(json_agg(created_at), '[]') as created_at,
coalesce(json_agg(profile), '[]') as profile

-- snippet: columns_of_page
page.id, page.email, page.display_name, page.is_active, page.created_at, page.profile

-- snippet: row
{users.sources}, profile

-- snippet: page
-- Profiles, which may be large, come where they are wanted.
{users.columns}, json_agg(profile) filter (where asked.with_profile) as profile

-- snippet: is_active
(is_active = asked.active) is distinct from false

-- snippet: by_filters
{is_active}
and (created_at >= asked.created_from) is distinct from false
and (created_at < asked.created_to) is distinct from false

-- snippet: by_created_at
-- In the order of created_at, it bounds the walk.
created_at >= coalesce(asked.created_from, '-infinity')
and created_at <= coalesce(asked.created_to - interval '1 microsecond', 'infinity')
and {is_active}

-- name: list_users_by_id :columns
-- @hot
-- @unindexed: pages.active, pages.created_from, pages.created_to: rows are walked until the page is full
-- In the order of their ids.
select {pages}
from (
    select {columns_of_page} from {asked} cross join lateral (
        select {page} from (
            select {row} from (
                select {row}
                from users
                where id > coalesce(asked.after_id, '-9223372036854775808')
                    and {by_filters}
                order by id
                limit 1001
            ) as most limit asked.size
        ) as rows
    ) as page
    order by asked.number
) as pages;

-- name: list_users_by_id_desc :columns
-- @hot
-- @unindexed: pages.active, pages.created_from, pages.created_to: rows are walked until the page is full
-- The newest ids first.
select {pages}
from (
    select {columns_of_page} from {asked} cross join lateral (
        select {page} from (
            select {row} from (
                select {row}
                from users
                where id <= coalesce(asked.after_id - 1, 9223372036854775807)
                    and {by_filters}
                order by id desc
                limit 1001
            ) as most limit asked.size
        ) as rows
    ) as page
    order by asked.number
) as pages;

-- name: list_users_by_email :columns
-- @hot
-- @unindexed: pages.active, pages.created_from, pages.created_to: rows are walked until the page is full
-- In the byte order of their emails; the next text behind one is that with U+0001 at its end.
select {pages}
from (
    select {columns_of_page} from {asked} cross join lateral (
        select {page} from (
            select {row} from (
                select {row}
                from users
                where email >= coalesce(asked.after_email || chr(1), '')
                    and {by_filters}
                order by email
                limit 1001
            ) as most limit asked.size
        ) as rows
    ) as page
    order by asked.number
) as pages;

-- name: list_users_by_email_desc :columns
-- @hot
-- @unindexed: pages.active, pages.created_from, pages.created_to: rows are walked until the page is full
-- In the reverse byte order of their emails.
select {pages}
from (
    select {columns_of_page} from {asked} cross join lateral (
        select {page} from (
            select {row} from (
                select {row}
                from users
                where email < coalesce(asked.after_email, (select max(email) || '!' from users))
                    and {by_filters}
                order by email desc
                limit 1001
            ) as most limit asked.size
        ) as rows
    ) as page
    order by asked.number
) as pages;

-- snippet: created_at_of_last
-- Where a page ended, as it is stored, with one whose moment is not shown as it is. Where that one has gone, the walk
-- goes on where moments of its kind begin: some of them come twice, none is left out.
(select created_at from users where id = asked.after_id)

-- name: list_users_by_created_at :columns
-- @hot
-- @unindexed: pages.active: rows are walked until the page is full
-- The oldest first.
select {pages}
from (
    select {columns_of_page} from {asked} cross join lateral (
        select {page} from (
            select {row} from (
                select {row}
                from users
                where (created_at, id) > (
                        coalesce(asked.after_moment, {created_at_of_last}, case when asked.after_late then '9999-12-31 23:59:59.999999Z'::timestamptz else '-infinity' end),
                        coalesce(asked.after_id, '-9223372036854775808')
                    )
                    and {by_created_at}
                order by created_at, id
                limit 1001
            ) as most limit asked.size
        ) as rows
    ) as page
    order by asked.number
) as pages;

-- name: list_users_by_created_at_desc :columns
-- @hot
-- @unindexed: pages.active: rows are walked until the page is full
-- The youngest first.
select {pages}
from (
    select {columns_of_page} from {asked} cross join lateral (
        select {page} from (
            select {row} from (
                select {row}
                from users
                where (created_at, id) <= (
                        coalesce(asked.after_moment, {created_at_of_last}, case when not asked.after_late then '0001-01-01 00:00Z'::timestamptz else 'infinity' end),
                        coalesce(asked.after_id - 1, 9223372036854775807)
                    )
                    and {by_created_at}
                order by created_at desc, id desc
                limit 1001
            ) as most limit asked.size
        ) as rows
    ) as page
    order by asked.number
) as pages;
