-- name: by_key :many
-- @needs: 15
-- @expect: name | 0..1
select name from teams where id = :id;

-- name: by_key_backwards :many
-- @needs: 15
-- @expect: name | 0..1
select name from teams where :id = id;

-- name: by_unique :many
-- @needs: 15
-- @expect: id | 0..1
select id from teams where name = :name;

-- name: by_two_columns :many
-- @needs: 15
-- @expect: id | 0..1
select id from members where team_id = :id and email = :name;

-- name: by_half_a_key :many
-- @needs: 15
-- @expect: id | 0..n
select id from members where team_id = :id;

-- name: by_key_and_more :many
-- @needs: 15
-- @expect: id | 0..1
select id from teams where id = :id and motto is not null;

-- name: by_key_or_more :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams where id = :id or size = 1;

-- name: by_any_key :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams where id = any (:ids::int[]);

-- name: by_sum_of_key :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams where id + 1 = :id;

-- name: by_key_of_random :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams where id = (random() * 3)::int;

-- name: by_key_limited :many
-- @needs: 15
-- @expect: id | 0..1
select id from teams limit 1;

-- name: by_limit_zero :many
-- @needs: 15
-- @expect: id | 0..1
select id from teams limit 0;

-- name: by_limit_two :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams limit 2;

-- name: by_limit_given :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams limit :n;

-- name: by_limit_computed :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams limit length('a');

-- name: by_limit_null :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams limit null;

-- name: by_limit_ties :many
-- @needs: 15
-- @expect: size | 0..n
select size from teams order by size fetch first 1 row with ties;

-- name: by_fetch_first :many
-- @needs: 15
-- @expect: id | 0..1
select id from teams fetch first row only;

-- name: by_offset :many
-- @needs: 15
-- @expect: n | 0..1
select count(*) as n from teams offset :n;

-- name: by_aggregate :many
-- @needs: 15
-- @expect: n | 1..1
select count(*) as n from teams where id = :id;

-- name: by_aggregate_having :many
-- @needs: 15
-- @expect: n | 0..1
select count(*) as n from teams having count(*) > 2;

-- name: by_rollup :many
-- @needs: 15
-- @expect: id? n | 0..n
select id, count(*) as n from teams where id = :id group by rollup (id);

-- name: by_group_of_key :many
-- @needs: 15
-- @expect: id n | 0..1
select id, count(*) as n from teams where id = :id group by id;

-- name: by_join_of_key :many
-- @needs: 15
-- @expect: name | 0..1
select t.name from members m join teams t on t.id = m.team_id where m.id = :id;

-- name: by_left_join_of_key :many
-- @needs: 15
-- @expect: name? | 0..1
select t.name from members m left join teams t on t.id = m.team_id where m.id = :id;

-- name: by_left_join_of_many :many
-- @needs: 15
-- @expect: email? | 0..n
select m.email from teams t left join members m on m.team_id = t.id where t.id = :id;

-- name: by_on_of_left_join :many
-- @needs: 15
-- @expect: email | 0..n
select m.email from members m left join teams t on m.id = :id;

-- name: by_lateral_limit :many
-- @needs: 15
-- @expect: id email | 0..1
select t.id, x.email from teams t, lateral (select email from members where team_id = t.id limit 1) x where t.id = :id;

-- name: by_lateral_circle :many
-- @needs: 15
-- @expect: id | 0..n
select t.id from teams t, lateral (select t.id as x limit 1) l where t.id = l.x;

-- name: by_lateral_values :many
-- @needs: 15
-- @expect: id | 0..n
select t.id from teams t, lateral (values (t.id)) l (x) where t.id = l.x;

-- name: by_subquery :many
-- @needs: 15
-- @expect: name | 0..1
select x.name from (select name from teams where id = :id) x;

-- name: by_two_subqueries :many
-- @needs: 15
-- @expect: name other | 0..1
select a.name, b.name as other from (select name from teams where id = :id) a, (select name from teams limit 1) b;

-- name: by_scalar :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams where id = (select max(team_id) from members);

-- name: by_correlated :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams where id = (select max(team_id) from members where members.id = teams.id);

-- name: by_key_of_partition :many
-- @needs: 15
-- @expect: detail? | 0..1
select detail from events where id = :id and kind = 'login';

-- name: by_half_of_partition :many
-- @needs: 15
-- @expect: detail? | 0..n
select detail from events where id = :id;

-- name: by_key_of_parent :many
-- @needs: 15
-- @expect: name? | 0..n
select name from animals where id = :id;

-- name: by_temporal_key :many
-- @needs: 18
-- @expect: guest? | 0..n
select guest from stays where room = int4range(:id, :id + 1) and during = '[1,3)';

-- name: by_half_of_temporal :many
-- @needs: 18
-- @expect: guest? | 0..n
select guest from stays where room = int4range(:id, :id + 1);

-- name: by_overlap :many
-- @needs: 18
-- @expect: guest? | 0..n
select guest from stays where room = int4range(:id, :id + 1) and during @> 1;

-- name: by_collation :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams where name = (:name::text collate "POSIX");

-- name: by_cast_of_key :many
-- @needs: 15
-- @expect: id | 0..n
select id from teams where id::text = :name;

-- name: nothing_from_nowhere :many
-- @needs: 15
-- @expect: n | 0..1
select 1 as n where :id = 1;

-- name: something_from_nowhere :many
-- @needs: 15
-- @expect: n | 1..1
select 1 as n;

-- name: values_of_one :many
-- @needs: 15
-- @expect: a | 1..1
select a from (values (1)) x (a);

-- name: values_of_two :many
-- @needs: 15
-- @expect: a | 1..n
select a from (values (1), (2)) x (a);

-- name: union_of_one :many
-- @needs: 15
-- @expect: id | 1..n
select id from teams where id = :id union all select 0;

-- name: union_of_one_limited :many
-- @needs: 15
-- @expect: id | 1..1
select id from teams where id = :id union all select 0 limit 1;

-- name: intersect_of_one :many
-- @needs: 15
-- @expect: n | 0..n
select count(*) as n from teams intersect select 1;

-- name: series_of_none :many
-- @needs: 15
-- @expect: n | 0..n
select n from generate_series(1, 0) as n;

-- name: function_of_one :many
-- @needs: 15
-- @expect: n | 1..n
select n from abs(:id::int) as n;

-- name: set_in_target :many
-- @needs: 15
-- @expect: n? | 0..n
select generate_series(1, 2) as n;

-- name: set_in_target_limited :many
-- @needs: 15
-- @expect: n? | 0..1
select generate_series(1, 2) as n limit 1;

-- name: left_of_one :many
-- @needs: 15
-- @expect: a name? | 1..1
select x.a, t.name from (select 1 as a) x left join teams t on t.id = :id;

-- name: right_of_one :many
-- @needs: 15
-- @expect: a | 1..1
select x.a from teams t right join (select 1 as a) x on t.id = :id;

-- name: full_of_one :many
-- @needs: 15
-- @expect: a | 0..n
select x.a from teams t full join (select 1 as a) x on false where x.a = 1;

-- name: cte_of_one :many
-- @needs: 15
-- @expect: n | 1..1
with x as (select count(*) as n from teams) select n from x;

-- name: cte_of_key :many
-- @needs: 15
-- @expect: id | 0..1
with x as (select id from teams where id = :id) select id from x;

-- name: insert_one :many
-- @needs: 15
-- @expect: id name motto? | 1..1
insert into teams (name) values (:name) returning id, name, motto;

-- name: insert_two :many
-- @needs: 15
-- @expect: id a? | 1..n
insert into halves (id) values (101), (102) returning id, a;

-- name: insert_default :many
-- @needs: 15
-- @expect: id code other? | 1..1
insert into side.orders (member_id, code, total) values (1, 'a', 2) returning id, code, other;

-- name: insert_or_nothing :many
-- @needs: 15
-- @expect: id | 0..1
insert into teams (name) values (:name) on conflict (name) do nothing returning id;

-- name: insert_or_update :many
-- @needs: 15
-- @expect: id motto? | 1..1
insert into teams (name) values (:name) on conflict (name) do update set motto = 'x' returning id, motto;

-- name: insert_or_update_where :many
-- @needs: 15
-- @expect: id | 0..1
insert into teams (name) values (:name) on conflict (name) do update set motto = 'x' where teams.size > 1 returning id;

-- name: insert_select :many
-- @needs: 15
-- @expect: id a? | 0..n
insert into halves (id, a) select id, motto from teams on conflict do nothing returning id, a;

-- name: insert_select_of_key :many
-- @needs: 15
-- @expect: id a? | 0..1
insert into halves (id, a) select id, motto from teams where id = :id on conflict do nothing returning id, a;

-- name: insert_old_and_new :many
-- @needs: 18
-- @expect: a b? | 1..1
insert into teams (name) values (:name) returning new.id as a, old.id as b;

-- name: update_key :many
-- @needs: 15
-- @expect: id motto? name | 0..1
update teams set motto = :maybe_name where id = :id returning id, motto, name;

-- name: update_all :many
-- @needs: 15
-- @expect: id size | 0..n
update teams set size = size + 1 returning id, size;

-- name: update_filtered :many
-- @needs: 18
-- @expect: motto? before | 0..n
update teams set motto = null where motto = 'a' returning motto, old.motto as before;

-- name: update_filtered_other :many
-- @needs: 15
-- @expect: id score | 0..n
update teams t set size = 1 from members m where m.team_id = t.id and m.score is not null returning t.id, m.score;

-- name: update_old_and_new :many
-- @needs: 18
-- @expect: a b c? | 0..n
update teams set name = name || 'x' returning old.name as a, new.name as b, new.motto as c;

-- name: update_from_one :many
-- @needs: 15
-- @expect: id | 0..1
update teams t set size = m.rank from members m where m.id = :id and t.id = m.team_id returning t.id;

-- name: delete_key :many
-- @needs: 15
-- @expect: email team_id? | 0..1
delete from members where id = :id returning email, team_id;

-- name: delete_all :many
-- @needs: 15
-- @expect: email | 0..n
delete from members returning email;

-- name: delete_old_and_new :many
-- @needs: 18
-- @expect: a b? | 0..n
delete from members returning old.email as a, new.email as b;

-- name: merge_one :many
-- @needs: 17
-- @expect: id? x? | 0..1
merge into teams t using (select 1 as x) s on t.id = :id when matched then update set size = 1 returning t.id, s.x;

-- name: merge_all :many
-- @needs: 17
-- @expect: id? email? | 0..n
merge into teams t using members m on m.team_id = t.id when matched then update set size = 1 when not matched then do nothing returning t.id, m.email;

-- name: merge_by_source :many
-- @needs: 17
-- @expect: id? | 0..n
merge into teams t using (select 1 as x) s on t.id = :id when matched then do nothing when not matched by source then update set size = 2 returning t.id;

-- name: merge_action_of :many
-- @needs: 18
-- @expect: a id? b? c? | 0..1
merge into teams t using (select :name::text as n) s on t.name = s.n when matched then update set size = 1 when not matched then insert (name) values (s.n) returning merge_action() as a, t.id, old.id as b, new.id as c;

-- name: written_in_cte :many
-- @needs: 15
-- @expect: id motto? | 1..1
with x as (insert into teams (name) values (:name) returning id, motto) select id, motto from x;

-- name: deleted_in_cte :many
-- @needs: 15
-- @expect: email | 0..n
with x as (delete from members returning email) select email from x;

-- name: counted_in_cte :many
-- @needs: 15
-- @expect: n | 1..1
with x as (delete from members returning email) select count(*) as n from x;

-- name: insert_of_what_is_given :one
-- @needs: 15
-- @expect: a b? c | 1..1
insert into halves (id, a, b) values (:n, :name, :maybe_name) returning a, b, a || 'x' as c;

-- name: insert_of_several_given :many
-- @needs: 15
-- @expect: a b? | 1..n
insert into halves (id, a, b) values (101, 'a', 'b'), (102, :name, null) returning a, b;

-- name: insert_of_a_default :one
-- @needs: 15
-- @expect: a? b? | 1..1
insert into halves (id, a) values (101, default) returning a, b;

-- name: insert_of_rows_given :many
-- @needs: 15
-- @expect: a b? | 0..n
insert into halves (id, a, b) select id + 1000, name, motto from teams returning a, b;

-- name: insert_or_not_of_what_is_given :many
-- @needs: 15
-- @expect: a | 0..1
insert into halves (id, a) values (:n, :name) on conflict do nothing returning a;

-- name: insert_or_keep :many
-- @needs: 15
-- @expect: a? b? | 1..1
insert into halves (id, a, b) values (:n, :name, :maybe_name) on conflict (id) do update set b = 'x' returning a, b;

-- name: insert_or_set :many
-- @needs: 15
-- @expect: a b? c | 1..1
insert into halves (id, a, b) values (:n, :name, 'b') on conflict (id) do update set a = coalesce(halves.a, excluded.b, 'x'), b = excluded.b returning a, b, id as c;

-- name: update_of_what_is_given :many
-- @needs: 18
-- @expect: a b? before? | 0..1
update halves set a = :name, b = :maybe_name where id = :id returning a, b, old.a as before;

-- name: update_of_what_was_there :many
-- @needs: 15
-- @expect: a? b | 0..n
update halves set a = b, b = :name returning a, b;

-- name: update_of_what_was_compared :many
-- @needs: 15
-- @expect: a b? | 0..n
update halves set a = b, b = null where b is not null returning a, b;

-- name: update_of_a_row :many
-- @needs: 15
-- @expect: a? b? | 0..n
update halves set (a, b) = (select 'a', 'b') returning a, b;

-- name: update_read_in_a_sub_query :many
-- @needs: 15
-- @expect: a | 0..n
update halves h set a = :name returning (select h.a from (select 1) as x) as a;

-- name: update_in_a_common_table :many
-- @needs: 15
-- @expect: a b? | 0..n
with x as (update halves set a = 'a' returning a, b) select a, b from x;

-- name: insert_under_a_trigger :many
-- @needs: 15
-- @expect: title? body | 0..1
insert into drafts (title, body) values (:name, :name) returning title, body;

-- name: update_under_a_trigger :many
-- @needs: 15
-- @expect: title? | 0..n
update drafts set title = :name returning title;

-- name: insert_under_the_trigger_of_a_part :many
-- @needs: 15
-- @expect: title? | 0..1
insert into papers (id, kind, title) values (1, 'login', :name) returning title;

-- name: insert_under_a_rule :many
-- @needs: 15
-- @expect: wish? | 0..1
insert into wishes (id, wish) values (:n, :name) returning wish;

-- name: insert_into_a_view :many
-- @needs: 15
-- @expect: motto? | 0..1
insert into team_names (name, motto) values (:name, :name) returning motto;

-- name: insert_under_a_trigger_of_updates :one
-- @needs: 15
-- @expect: title | 1..1
insert into slips (id, title) values (:n + 1000, :name) returning title;

-- name: insert_or_set_under_a_trigger_of_updates :one
-- @needs: 15
-- @expect: title? | 0..1
insert into slips (id, title) values (:n, :name) on conflict (id) do update set title = 'x' returning title;

-- name: update_that_moves_a_row :many
-- @needs: 15
-- @expect: title? | 0..n
update moved set kind = 'visit', title = :name returning title;
