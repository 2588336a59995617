-- name: count_all :many
-- @needs: 15
-- @expect: n m | 1..1
select count(*) as n, count(motto) as m from teams;

-- name: aggregates_of_all :many
-- @needs: 15
-- @expect: a? b? c? d? e?[] | 1..1
select sum(size) as a, max(name) as b, avg(size) as c, bool_and(size > 0) as d, array_agg(name) as e from teams;

-- name: aggregates_coalesced :many
-- @needs: 15
-- @expect: a b[] c[?] | 1..1
select coalesce(sum(size), 0) as a, coalesce(array_agg(name), '{}') as b, coalesce(array_agg(motto), '{}') as c from teams;

-- name: aggregates_by_group :many
-- @needs: 15
-- @expect: motto? a b c? d | 0..n
select motto, sum(size) as a, max(name) as b, min(motto) as c, count(*) as d from teams group by motto;

-- name: aggregates_filtered :many
-- @needs: 15
-- @expect: name a? b | 0..n
select name, sum(size) filter (where size > 1) as a, count(*) filter (where size > 1) as b from teams group by name;

-- name: arrays_by_group :many
-- @needs: 15
-- @expect: motto? a[] b?[?] c[] | 0..n
select motto, array_agg(name) as a, array_agg(motto) as b, array_agg(name order by id) as c from teams group by motto;

-- name: arrays_of_outer :many
-- @needs: 15
-- @expect: id a?[?] b?[?] | 0..n
select m.id, array_agg(t.name) as a, array_agg(t.name) filter (where t.id is not null) as b from members m left join teams t on t.id = m.team_id group by m.id;

-- name: string_agg_by_group :many
-- @needs: 15
-- @expect: motto? a b? | 0..n
select motto, string_agg(name, ',') as a, string_agg(motto, ',') as b from teams group by motto;

-- name: json_aggs :many
-- @needs: 15
-- @expect: size a? b? | 0..n
select size, json_agg(motto) as a, jsonb_object_agg(name, motto) as b from teams group by size;

-- name: statistics :many
-- @needs: 15
-- @expect: size a? b c? | 0..n
select size, stddev(size) as a, var_pop(size) as b, mode() within group (order by name) as c from teams group by size;

-- name: grouping_sets :many
-- @needs: 15
-- @expect: name? size? n m? | 0..n
select name, size, count(*) as n, max(name) as m from teams group by grouping sets ((name), (size), ());

-- name: rolled_up :many
-- @needs: 15
-- @expect: name? n g | 0..n
select name, count(*) as n, grouping(name) as g from teams group by rollup (name);

-- name: cubed :many
-- @needs: 15
-- @expect: name? size? s? | 0..n
select name, size, sum(size) as s from teams group by cube (name, size);

-- name: having :many
-- @needs: 15
-- @expect: name n | 0..n
select name, count(*) as n from teams group by name having count(*) > 1;

-- name: group_by_expression :many
-- @needs: 15
-- @expect: a b | 0..n
select upper(name) as a, coalesce(motto, '') as b from teams group by upper(name), coalesce(motto, '');

-- name: group_by_key :many
-- @needs: 15
-- @expect: id name motto? | 0..n
select id, name, motto from teams group by id;

-- name: distinct_aggregate :many
-- @needs: 15
-- @expect: a b?[?] | 1..1
select count(distinct name) as a, array_agg(distinct motto) as b from teams;

-- name: aggregate_of_outer :many
-- @needs: 15
-- @expect: a? | 0..n
select (select max(t.size) from members limit 1) as a from teams t group by t.id;

-- name: aggregate_in_subquery :many
-- @needs: 15
-- @expect: name n most? | 0..n
select t.name, (select count(*) from members m where m.team_id = t.id) as n, (select max(m.rank) from members m where m.team_id = t.id) as most from teams t;

-- name: aggregate_over_join :many
-- @needs: 15
-- @expect: name n most? | 0..n
select t.name, count(m.id) as n, max(m.rank) as most from teams t left join members m on m.team_id = t.id group by t.name;

-- name: any_value_of :many
-- @needs: 16
-- @expect: motto? a | 0..n
select motto, any_value(name) as a from teams group by motto;

-- name: window_over_group :many
-- @needs: 15
-- @expect: motto? n s? r | 0..n
select motto, count(*) as n, sum(count(*)) over () as s, row_number() over (order by count(*)) as r from teams group by motto;

-- name: empty_grouping :many
-- @needs: 15
-- @expect: n | 0..n
select count(*) as n from teams group by ();
