-- snippet: columns
-- A thing as it is stored.
id, name, note, size, is_open, details, parent, created_at, version

-- name: create_thing :one
-- A new thing; the constraints answer whether the name is taken and the parent there.
insert into things (name, note, size, details, parent)
values (:new.name, :new.note, :new.size, coalesce(:new.details::jsonb, '{}'), :new.parent)
returning {columns};

-- name: get_thing :one
-- @hot
-- One thing.
select {columns} from things where id = :id;

-- name: get_things :many
-- @hot
-- Several things, in no order.
select {columns} from things where id = any(:ids::bigint[]);

-- name: get_thing_by_name :one
-- @hot
-- One thing by its name.
select {columns} from things where name = :name;

-- name: get_things_by_name :many
-- @hot
-- Several things by their names, in no order.
select {columns} from things where name = any(:names::text[]);

-- name: list_things_by_id :many
-- A page in the order of ids.
select {columns}
from things
where id > :after.id
    and (:filter.is_open::boolean is null or is_open = :filter.is_open)
    and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
order by id
limit :limit;

-- name: list_things_by_name :many
-- A page in the order of names, which are never empty.
select {columns}
from things
where name > :after.name
    and (:filter.is_open::boolean is null or is_open = :filter.is_open)
    and (:filter.created_from::timestamptz is null or created_at >= :filter.created_from)
order by name
limit :limit;

-- name: update_thing :one
-- @hot
-- Changes what is given, if it is one of the versions, where any are named. Where somebody else has the row
-- locked, this waits, or finds none.
update things
set name = coalesce(:change.name, name),
    note = case when :set_note then :change.note else note end,
    size = coalesce(:change.size, size),
    is_open = coalesce(:change.is_open, is_open),
    details = coalesce(:change.details::jsonb, details),
    version = version + 1
where id = :id
    and (:versions::bigint[] is null or version = any(:versions))
    and (:waits or exists (select from things where id = :id for no key update skip locked))
returning {columns};

-- name: update_things :many
-- @hot
-- Small changes of several things, each named once; a row that somebody else has locked is left alone.
update things
set note = case when free.set_note then free.note else things.note end,
    is_open = coalesce(free.is_open, things.is_open),
    version = things.version + 1
from (
    select change.id, expected_version, set_note, change.note, change.is_open
    from unnest(
        :changes.ids::bigint[], :changes.versions::bigint[], :changes.set_notes::boolean[],
        :changes.notes::text[], :changes.are_open::boolean[]
    ) as change (id, expected_version, set_note, note, is_open)
    join things on things.id = change.id
    order by change.id
    for no key update of things skip locked
) as free
where things.id = free.id
    and (free.expected_version is null or things.version = free.expected_version)
returning things.id, things.name, things.note, things.size, things.is_open, things.details, things.parent,
    things.created_at, things.version;

-- name: delete_thing :execrows
-- Removes a thing, if it is still one of the versions where any are named.
delete from things
where id = :id
    and (:versions::bigint[] is null or version = any(:versions));
