-- snippet: columns
-- One note, as `Note` has it.
id, author_id, text, to_rfc3339(created_at) as created_at, version

-- name: create_note :one
-- A new note; the foreign key answers whether its author is there.
insert into notes (author_id, text) values (:new.author_id, :new.text) returning {columns};

-- name: get_note :one
-- @hot
-- One note.
select {columns} from notes where id = :id;

-- name: get_notes :many
-- @hot
-- Several notes, in no order: what is asked for at one time goes out as one statement.
select {columns} from notes where id = any(:ids::text::bigint[]);

-- snippet: lists
-- Notes column by column, as lists in JSON.
coalesce(json_agg(id), '[]') as id, coalesce(json_agg(author_id), '[]') as author_id,
coalesce(json_agg(text), '[]') as text, coalesce(json_agg(created_at), '[]') as created_at,
coalesce(json_agg(version), '[]') as version

-- name: list_notes :columns
-- @hot
-- Pages of notes in the order of their ids, each from behind one of them (keyset): of each column a list for each page.
-- Arrays come by a select, whose length the planner does not look at: it would plan each time.
select {lists}
from (
    select page.id, page.author_id, page.text, page.created_at, page.version
    from unnest((select :pages.after::bigint[]), (select :pages.size::int[])) with ordinality as asked (after, size, number)
    cross join lateral (
        select {lists} from (
            select id, author_id, text, to_utc(created_at) as created_at, version
            from notes where id > asked.after order by id limit asked.size
        ) as rows
    ) as page
    order by asked.number
) as pages;

-- name: update_note :one
-- @hot
-- Changes the text.
update notes set text = :text, version = version + 1
where id = :id and {common.version_matches} returning {columns};

-- name: update_notes :many
-- @hot
-- Changes the texts of several notes, each named once: one statement, one commit. A row that somebody else has locked is
-- skipped, so that nobody waits for another.
update notes set text = free.new_text, version = notes.version + 1
from (
    select change.id as changed_id, change.text as new_text
    from unnest((select :changes.id::bigint[]), (select :changes.text::text[])) as change (id, text)
    join notes on notes.id = change.id
    order by change.id
    for no key update of notes skip locked
) as free
where notes.id = free.changed_id
returning {columns};

-- name: delete_note :execrows
-- Removes a note.
delete from notes where id = :id and {common.version_matches};
