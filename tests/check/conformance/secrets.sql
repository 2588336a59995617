-- name: secret_itself :many
-- @needs: 15
-- @expect: key! | 0..n
select key from teams;

-- name: secret_renamed :many
-- @needs: 15
-- @expect: name! | 0..n
select key as name from teams;

-- name: secret_in_part :many
-- @needs: 15
-- @expect: a! b! c! | 0..n
select left(key, 2) as a, key || name as b, length(key) as c from teams;

-- name: secret_in_row :many
-- @needs: 15
-- @expect: row! | 0..n
select t::text as row from teams t;

-- name: secret_in_json :many
-- @needs: 15
-- @expect: a! | 0..n
select row_to_json(t)::text as a from teams t;

-- name: secret_in_aggregate :many
-- @needs: 15
-- @expect: a?! b?! c | 1..1
select max(key) as a, string_agg(key, ',') as b, count(*) as c from teams;

-- name: secret_in_array :many
-- @needs: 15
-- @expect: a?[]! b[]! | 1..1
select array_agg(key) as a, array(select key from teams) as b from teams;

-- name: secret_in_subquery :many
-- @needs: 15
-- @expect: a?! | 1..1
select (select key from teams limit 1) as a;

-- name: secret_in_case :many
-- @needs: 15
-- @expect: a b?! | 0..n
select case when key = 'hunter2' then 1 else 2 end as a, case when key > 'a' then 1 end as b from teams;

-- name: secret_through_view :many
-- @needs: 15
-- @expect: shown! name | 0..n
select shown, name from shown_keys;

-- name: secret_through_cte :many
-- @needs: 15
-- @expect: k! name | 0..n
with x as (select key as k, name from teams) select k, name from x;

-- name: secret_through_union :many
-- @needs: 15
-- @expect: name! | 0..n
select name from teams union all select key from teams;

-- name: secret_through_function :many
-- @needs: 15
-- @expect: a?! b? c?! d? | 1..1
select key_of(1) as a, name_of(1) as b, find_key(1) as c, add_one(1) as d;

-- name: secret_through_set_function :many
-- @needs: 15
-- @expect: name? key?! | 0..n
select name, key from team_rows();

-- name: secret_through_using :many
-- @needs: 15
-- @expect: k?! id? | 0..n
select a.key as k, id from teams a full join members b using (id);

-- name: secret_through_lateral :many
-- @needs: 15
-- @expect: v! | 0..n
select x.v from teams t, lateral (values (t.key)) x (v);

-- name: secret_through_recursion :many
-- @needs: 15
-- @expect: a! | 0..n
with recursive r as (select name as a, key as b, 1 as n from teams union all select b, a, n + 1 from r where n < 3) select a from r;

-- name: secret_through_json_table :many
-- @needs: 17
-- @expect: x?! | 0..n | decides!
select t.x from teams, json_table(to_json(key), '$' columns (x text path '$')) as t;

-- name: secret_returned :many
-- @needs: 15
-- @expect: key! name | 0..n
update teams set size = 1 returning key, name;

-- name: secret_returned_old :many
-- @needs: 18
-- @expect: a! size | 0..n
update teams set key = 'x' returning old.key as a, size;

-- name: secret_compared :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams where key = :name;

-- name: secret_compared_any :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams where key = any (:names::text[]);

-- name: secret_compared_value :many
-- @needs: 15
-- @expect: same | 0..n
select key = :name as same from teams;

-- name: secret_ordered :many
-- @needs: 15
-- @expect: id | 0..n | decides!
select id from teams order by key;

-- name: secret_grouped :many
-- @needs: 15
-- @expect: n | 0..n | decides!
select count(*) as n from teams group by key;

-- name: secret_searched :many
-- @needs: 15
-- @expect: id | 0..n | decides!
select id from teams where key like 'h%';

-- name: secret_ranged :many
-- @needs: 15
-- @expect: id | 0..n | decides!
select id from teams where key > :name;

-- name: secret_existing :many
-- @needs: 15
-- @expect: a | 1..1 | decides!
select exists (select from teams where key like 'h%') as a;

-- name: secret_limit :many
-- @needs: 15
-- @expect: id | 0..n | decides!
select id from teams limit (select length(key) from teams limit 1);

-- name: secret_joined :many
-- @needs: 15
-- @expect: id | 0..n | decides!
select t.id from teams t join members m on m.token = t.key;

-- name: secret_written :many
-- @needs: 15
-- @expect: - | 0..n | writes!
update teams set motto = key;

-- name: secret_inserted :many
-- @needs: 15
-- @expect: - | 0..n | writes!
insert into halves (id, a) select id, key from teams;

-- name: secret_merged :many
-- @needs: 15
-- @expect: - | 0..n | writes!
merge into halves h using teams t on t.id = h.id when matched then update set a = t.key;

-- name: secret_kept :many
-- @needs: 15
-- @expect: id | 0..n
update teams set key = key || 'x' returning id;

-- name: secret_stats :many
-- @needs: 15
-- @expect: a?! b | 0..n
select most_common_vals::text as a, null_frac as b from pg_stats;

-- name: no_secret_counted :many
-- @needs: 15
-- @expect: n | 1..1
select count(t) as n from teams t;

-- name: no_secret_beside :many
-- @needs: 15
-- @expect: name motto? | 0..n
select name, motto from teams group by name, motto;
