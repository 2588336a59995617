-- name: window_counts :many
-- @needs: 15
-- @expect: name r k t? n | 0..n
select name, row_number() over (order by id) as r, rank() over (order by size) as k, ntile(3) over (order by id) as t, count(*) over () as n from teams;

-- name: window_neighbours :many
-- @needs: 15
-- @expect: name a? b c? d | 0..n
select name, lag(name) over w as a, lead(name, 1, '') over w as b, lag(motto, 1, 'none') over w as c, lead(size, 2, 0) over w as d from teams window w as (order by id);

-- name: window_ends :many
-- @needs: 15
-- @expect: a? b? c? d? | 0..n
select first_value(name) over w as a, last_value(name) over w as b, nth_value(name, 1) over w as c, nth_value(name, 2) over w as d from teams window w as (partition by size order by id);

-- name: window_rows :many
-- @needs: 15
-- @expect: a? b? c? | 0..n
select sum(size) over (order by id rows between 1 preceding and 1 following) as a, sum(size) over (order by id rows between 2 preceding and 1 preceding) as b, max(name) over (order by id rows unbounded preceding) as c from teams;

-- name: window_excludes :many
-- @needs: 15
-- @expect: a? b | 0..n
select max(name) over (order by size groups between current row and current row exclude group) as a, count(name) over (order by size rows between 1 following and 2 following) as b from teams;

-- name: window_of_groups :many
-- @needs: 15
-- @expect: size running? earlier? | 0..n
select size, sum(count(*)) over (order by size) as running, lag(max(name)) over (order by size) as earlier from teams group by size;

-- name: window_filtered :many
-- @needs: 15
-- @expect: name a? b | 0..n
select name, max(size) filter (where size > 1) over (order by id) as a, count(*) filter (where size > 1) over () as b from teams;

-- name: window_of_outer :many
-- @needs: 15
-- @expect: id a? b | 0..n
select t.id, max(m.email) over (partition by t.id) as a, percent_rank() over (order by m.id) as b from teams t left join members m on m.team_id = t.id;
