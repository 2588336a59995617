-- name: inner_join :many
-- @needs: 15
-- @expect: email name motto? | 0..n
select m.email, t.name, t.motto from members m join teams t on t.id = m.team_id;

-- name: left_join :many
-- @needs: 15
-- @expect: email name? team? | 0..n
select m.email, t.name, t.id as team from members m left join teams t on t.id = m.team_id;

-- name: right_join :many
-- @needs: 15
-- @expect: email? name | 0..n
select m.email, t.name from members m right join teams t on t.id = m.team_id;

-- name: full_join :many
-- @needs: 15
-- @expect: email? name? | 0..n
select m.email, t.name from members m full join teams t on t.id = m.team_id;

-- name: full_join_using :many
-- @needs: 15
-- @expect: id? name? email? | 0..n
select id, a.name, b.email from teams a full join members b using (id);

-- name: left_join_using :many
-- @needs: 15
-- @expect: id name email? | 0..n
select id, a.name, b.email from teams a left join members b using (id);

-- name: right_join_using :many
-- @needs: 15
-- @expect: id name? email | 0..n
select id, a.name, b.email from teams a right join members b using (id);

-- name: natural_join :many
-- @needs: 15
-- @expect: id email? | 0..n
select id, b.email from teams a natural left join members b;

-- name: cross_join :many
-- @needs: 15
-- @expect: name email | 0..n
select a.name, b.email from teams a cross join members b;

-- name: nested_outer :many
-- @needs: 15
-- @expect: a b? c? | 0..n
select a.name as a, b.name as b, m.email as c from teams a left join (teams b join members m on m.team_id = b.id) on b.size = a.size;

-- name: nested_outer_twice :many
-- @needs: 15
-- @expect: a? b? c | 0..n
select a.name as a, b.name as b, c.name as c from teams a left join teams b on b.size = a.size right join teams c on c.size = b.size;

-- name: outer_then_inner :many
-- @needs: 15
-- @expect: name? total | 0..n
select t.name, o.total from members m left join teams t on t.id = m.team_id join side.orders o on o.member_id = m.id;

-- name: outer_undone_by_where :many
-- @needs: 15
-- @expect: email name | 0..n
select m.email, t.name from members m left join teams t on t.id = m.team_id where t.name = 'a';

-- name: outer_undone_by_not_null :many
-- @needs: 15
-- @expect: id motto? | 0..n
select t.id, t.motto from members m left join teams t on t.id = m.team_id where t.id is not null;

-- name: alias_of_join :many
-- @needs: 15
-- @expect: email name? | 0..n
select j.email, j.name from (members m left join teams t on t.id = m.team_id) as j (a, b, c, email);

-- name: lateral_join :many
-- @needs: 15
-- @expect: email name | 0..n
select m.email, x.name from members m cross join lateral (select t.name from teams t where t.id = m.team_id) x;

-- name: lateral_left_join :many
-- @needs: 15
-- @expect: email name? | 0..n
select m.email, x.name from members m left join lateral (select t.name from teams t where t.id = m.team_id limit 1) x on true;

-- name: lateral_outer_column :many
-- @needs: 15
-- @expect: a? b | 0..n
select x.a, x.b from members m left join teams t on t.id = m.team_id, lateral (select t.name as a, m.email as b) x;

-- name: subquery :many
-- @needs: 15
-- @expect: name motto? size | 0..n
select x.name, x.motto, x.size from (select name, motto, size from teams where size > 0) x;

-- name: subquery_of_aggregate :many
-- @needs: 15
-- @expect: n most? | 1..1
select x.n, x.most from (select count(*) as n, max(size) as most from teams) x;

-- name: cte :many
-- @needs: 15
-- @expect: name motto? | 0..n
with x as (select name, motto from teams) select name, motto from x;

-- name: cte_materialized :many
-- @needs: 15
-- @expect: name other? | 0..n
with x as materialized (select id, name from teams) select x.name, y.name as other from x left join x y on y.id = x.id + 1;

-- name: cte_twice :many
-- @needs: 15
-- @expect: motto? m | 0..n
with a as (select motto from teams), b as (select coalesce(motto, '') as m from a) select a.motto, b.m from a, b;

-- name: cte_values :many
-- @needs: 15
-- @expect: a b? | 1..n
with x (a, b) as (values (1, null::text), (2, 'b')) select a, b from x;

-- name: recursive :many
-- @needs: 15
-- @expect: n | 1..n
with recursive r as (select 1 as n union all select n + 1 from r where n < 5) select n from r;

-- name: recursive_null :many
-- @needs: 15
-- @expect: n? | 1..n
with recursive r as (select 1 as n union all select null from r where n = 1) select n from r;

-- name: recursive_swap :many
-- @needs: 15
-- @expect: a? b? n | 0..n
with recursive r as (select name as a, motto as b, 1 as n from teams union all select b, a, n + 1 from r where n < 3) select a, b, n from r;

-- name: recursive_rotate :many
-- @needs: 15
-- @expect: a? b? c? | 0..n
with recursive r as (select name as a, name as b, motto as c, 1 as n from teams union all select b, c, a, n + 1 from r where n < 5) select a, b, c from r;

-- name: recursive_tree :many
-- @needs: 15
-- @expect: id boss_id? email | 0..n
with recursive r as (select id, boss_id, email from members where boss_id is null union all select m.id, m.boss_id, m.email from members m join r on m.boss_id = r.id) select id, boss_id, email from r;

-- name: recursive_search :many
-- @needs: 15
-- @expect: id boss_id? | 0..n
with recursive r as (select id, boss_id from members where boss_id is null union select m.id, m.boss_id from members m join r on m.boss_id = r.id) search breadth first by id set place select id, boss_id from r order by place;

-- name: recursive_cycle :many
-- @needs: 15
-- @expect: id boss_id? looped? | 0..n
with recursive r as (select id, boss_id from members union all select m.id, m.boss_id from members m join r on m.boss_id = r.id) cycle id set looped using path select id, boss_id, looped from r;

-- name: union_all :many
-- @needs: 15
-- @expect: a b? | 0..n
select name as a, name as b from teams union all select email, null from members;

-- name: union_distinct :many
-- @needs: 15
-- @expect: name? | 0..n
select name from teams union select motto from teams;

-- name: intersection :many
-- @needs: 15
-- @expect: name | 0..n
select name from teams intersect select motto from teams;

-- name: difference :many
-- @needs: 15
-- @expect: name | 0..n
select name from teams except select motto from teams;

-- name: difference_of_null :many
-- @needs: 15
-- @expect: motto? | 0..n
select motto from teams except select name from teams;

-- name: nested_operations :many
-- @needs: 15
-- @expect: name | 0..n
(select name from teams union select motto from teams) intersect select name from teams;

-- name: view :many
-- @needs: 15
-- @expect: id name motto? | 0..n
select id, name, motto from team_names;

-- name: view_with_outer_join :many
-- @needs: 15
-- @expect: id email team? | 0..n
select id, email, team from member_teams;

-- name: view_joined :many
-- @needs: 15
-- @expect: email name? | 0..n
select m.email, v.name from members m left join team_names v on v.id = m.team_id;

-- name: materialized_view :many
-- @needs: 15
-- @expect: id? members? | 0..n
select id, members from team_sizes;

-- name: function_in_from :many
-- @needs: 15
-- @expect: id? name? motto? | 0..n
select id, name, motto from team_rows();

-- name: table_sample :many
-- @needs: 15
-- @expect: name | 0..n
select name from teams tablesample system (50);

-- name: information_schema :many
-- @needs: 15
-- @expect: table_name column_name column_default? | 0..n
select table_name, column_name, column_default from information_schema.columns where table_schema = 'public';

-- name: catalog :many
-- @needs: 15
-- @expect: relname relnamespace | 0..n
select relname, relnamespace from pg_class limit 3;

-- name: sequence :many
-- @needs: 15
-- @expect: last_value is_called | 0..n
select last_value, is_called from teams_id_seq;

-- name: temporal :many
-- @needs: 18
-- @expect: room during guest? | 0..n
select room, during, guest from stays;

-- name: self_join :many
-- @needs: 15
-- @expect: email boss? | 0..n
select a.email, b.email as boss from members a left join members b on b.id = a.boss_id;

-- name: three_levels :many
-- @needs: 15
-- @expect: a? | 0..n
select (select (select t.name from teams t where t.id = m.team_id) from teams limit 1) as a from members m;
