-- name: recursive_chain :many
-- @needs: 15
-- @expect: id boss_id? depth | 0..n
with recursive chain as (select id, boss_id, 1 as depth from members where id = :id union all select m.id, m.boss_id, c.depth + 1 from chain c join members m on m.id = c.boss_id where c.depth < 5) select id, boss_id, depth from chain;

-- name: recursive_search_ordered :many
-- @needs: 15
-- @expect: id boss_id? way?[?] | 0..n
with recursive chain as (select id, boss_id from members where boss_id is null union all select m.id, m.boss_id from chain c join members m on m.boss_id = c.id) search depth first by id set way select id, boss_id, way from chain order by way;

-- name: recursive_cycle_marked :many
-- @needs: 15
-- @expect: id boss_id? again? way?[?] | 0..n
with recursive chain as (select id, boss_id from members union all select m.id, m.boss_id from chain c join members m on m.id = c.boss_id) cycle id set again using way select id, boss_id, again, way from chain;

-- name: distinct_on :many
-- @needs: 15
-- @expect: size name motto? | 0..n
select distinct on (size) size, name, motto from teams order by size, id;

-- name: with_ties :many
-- @needs: 15
-- @expect: name motto? | 0..n
select name, motto from teams order by size fetch first 1 rows with ties;

-- name: first_row_only :one
-- @needs: 15
-- @expect: name motto? | 0..1
select name, motto from teams order by size fetch first row only;

-- name: union_of_nulls :many
-- @needs: 15
-- @expect: a? b | 0..n
select name as a, 1 as b from teams union select motto, size from teams;

-- name: intersect_of_nulls :many
-- @needs: 15
-- @expect: a | 0..n
select motto as a from teams intersect select name from teams;

-- name: except_of_nulls :many
-- @needs: 15
-- @expect: a | 0..n
select name as a from teams except select motto from teams;

-- name: partitions_joined :many
-- @needs: 15
-- @expect: id kind detail? visit? | 0..n
select e.id, e.kind, e.detail, v.detail as visit from events e left join visits v on v.id = e.id;

-- name: one_of_a_partitioned_key :one
-- @needs: 15
-- @expect: detail? | 0..1
select detail from events where id = :id and kind = :name;

-- name: one_of_a_part :one
-- @needs: 15
-- @expect: detail? | 0..1
select detail from logins where id = :id and kind = 'login';

-- name: inherited :many
-- @needs: 15
-- @expect: id name? cat? lives? | 0..n
select a.id, a.name, c.name as cat, c.lives from animals a left join cats c on c.id = a.id;

-- name: only_parent :many
-- @needs: 15
-- @expect: id name? | 0..n
select id, name from only animals;

-- name: one_of_an_inherited_key :one
-- @needs: 15
-- @expect: name? | 0..n
select name from animals where id = :id;

-- name: temporal_moment :one
-- @needs: 18
-- @expect: guest? room | 0..n
select guest, room from stays where room = '[1,2)' and during @> 1;

-- name: virtual_columns :many
-- @needs: 18
-- @expect: id doubled initial? | 0..n
select id, doubled, initial from members where doubled > 2;

-- name: views_of_views :many
-- @needs: 15
-- @expect: team? motto? members? | 0..n
select v.team, n.motto, s.members from member_teams v left join team_names n on n.name = v.team left join team_sizes s on s.id = n.id;

-- name: values_with_nulls :many
-- @needs: 15
-- @expect: a b? c? | 1..n
select v.a, v.b, v.c from (values (1, 'a', null::text), (2, null, 'b')) as v (a, b, c);

-- name: lateral_one :many
-- @needs: 15
-- @expect: id email? | 0..n
select t.id, l.email from teams t left join lateral (select email from members m where m.team_id = t.id order by m.id limit 1) l on true;

-- name: lateral_aggregate :many
-- @needs: 15
-- @expect: id n last? | 0..n
select t.id, l.n, l.last from teams t cross join lateral (select count(*) as n, max(email) as last from members m where m.team_id = t.id) l;

-- name: scalar_sub_queries :many
-- @needs: 15
-- @expect: id n last? all_of_them[] any | 0..n
select t.id, (select count(*) from members m where m.team_id = t.id) as n, (select max(m.email) from members m where m.team_id = t.id) as last, array(select m.email from members m where m.team_id = t.id) as all_of_them, exists (select from members m where m.team_id = t.id) as any from teams t;

-- name: changed_in_an_expression :many
-- @needs: 15
-- @expect: id code other? email? | 0..n
with gone as (delete from side.orders where total = 0 returning id, member_id, code, other) select g.id, g.code, g.other, m.email from gone g left join members m on m.id = g.member_id;

-- name: inserted_or_there :one
-- @needs: 15
-- @expect: id name | 0..1
with made as (insert into teams (name) values (:name) on conflict (name) do nothing returning id, name) select id, name from made union all select id, name from teams where name = :name limit 1;

-- name: upserted :one
-- @needs: 15
-- @expect: id name motto? | 1..1
insert into teams (name, motto) values (:name, :maybe_name) on conflict (name) do update set motto = coalesce(excluded.motto, teams.motto) returning id, name, motto;

-- name: upserted_where :one
-- @needs: 15
-- @expect: id motto? | 0..1
insert into teams (name) values (:name) on conflict (name) do update set size = 1 where teams.size = 0 returning id, motto;

-- name: merged :many
-- @needs: 17
-- @expect: done id? a? name? | 0..n
merge into halves h using teams t on t.id = h.id when matched and t.size > 1 then update set a = t.motto when not matched then insert (id, a) values (t.id, t.name) returning merge_action() as done, h.id, h.a, t.name;

-- name: old_and_new :many
-- @needs: 18
-- @expect: before? after? name size | 0..1
update teams set motto = :maybe_name where id = :id returning old.motto as before, new.motto as after, old.name as name, new.size as size;

-- name: old_of_an_insert :one
-- @needs: 18
-- @expect: before? after b? | 1..1
insert into halves (id, a) values (:n, :name) returning old.id as before, new.id as after, new.b as b;

-- name: new_of_a_delete :many
-- @needs: 18
-- @expect: before after? a? | 0..1
delete from halves where id = :id returning old.id as before, new.id as after, old.a as a;
