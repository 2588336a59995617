-- name: count_things :one
-- How many there are.
select count(*) from things;

-- name: get_last_name :one
-- The name of the last thing, none where there is no thing.
select max(name) from things;
