-- name: get_last_id :one
-- @hot
-- The id that an export ends with; 0 where there is nobody.
select coalesce(max(id), 0) as last
from users;

-- An export reads block after block in one snapshot, each where the last one ended (keyset): no cursor is left open,
-- and the limit of a query's time holds for a block. The literal limit is the most that is asked for; without it
-- PostgreSQL would plan each block anew.

-- snippet: from_block
from (
    select {users.sources}
    from (
        select {users.sources}
        from users
        where id > :after
        order by id
        limit 1000
    ) as most
    limit :limit
) as block

-- name: export_users :columns
-- @hot
-- A block of users, column by column as pages are; none after the last block.
select {users.columns_without_profile}
{from_block};

-- name: export_users_as_csv :one
-- @hot
-- The same as CSV. Text is always in quotes, so that an empty one is not taken for null, which has none. What a spreadsheet
-- would take for a formula begins with an apostrophe, and so does what begins with one: who takes one off has it back.
select coalesce(string_agg(concat_ws(',',
        id,
        '"' || replace(regexp_replace(email, '^(?=[-=+@''\t\r])', ''''), '"', '""') || '"',
        coalesce('"' || replace(regexp_replace(display_name, '^(?=[-=+@''\t\r])', ''''), '"', '""') || '"', ''),
        is_active::text, to_rfc3339(created_at)
    ), E'\r\n'), '') as users, coalesce(max(id), 0) as last
{from_block};
