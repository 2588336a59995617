-- name: plain_columns :many
-- @needs: 15
-- @expect: id name motto? | 0..n
select id, name, motto from teams;

-- name: all_kinds :many
-- @needs: 18
-- @expect: id team_id? email rank score? mood born? seen? labels[?] marks?[?] notes token?! initial? doubled? | 0..n
select id, team_id, email, rank, score, mood, born, seen, labels, marks, notes, token, initial, doubled from members;

-- name: other_schema :many
-- @needs: 15
-- @expect: id member_id code other? total | 0..n
select id, member_id, code, other, total from side.orders;

-- name: constant :many
-- @needs: 15
-- @expect: one two three? four | 1..1
select 1 as one, 'a' as two, null::int as three, true as four;

-- name: system_columns :many
-- @needs: 15
-- @expect: t c x | 0..n
select tableoid::regclass::text as t, ctid::text as c, xmin::text as x from teams;

-- name: coalesced :many
-- @needs: 15
-- @expect: a b? c | 0..n
select coalesce(motto, '') as a, coalesce(motto, null) as b, coalesce(motto, name) as c from teams;

-- name: nullif_and_greatest :many
-- @needs: 15
-- @expect: a? b c? | 0..n
select nullif(name, 'a') as a, greatest(motto, name) as b, least(motto, motto) as c from teams;

-- name: case_with_else :many
-- @needs: 15
-- @expect: a b? | 0..n
select case when size > 1 then name else '' end as a, case when size > 1 then motto else '' end as b from teams;

-- name: case_without_else :many
-- @needs: 15
-- @expect: a? b | 0..n
select case when size > 1 then name end as a, case size when 1 then 'x' else 'y' end as b from teams;

-- name: arithmetic :many
-- @needs: 15
-- @expect: a b? c d | 0..n
select size + 1 as a, size * null as b, size % 7 as c, -size as d from teams;

-- name: text_functions :many
-- @needs: 15
-- @expect: a b c d? e? | 0..n
select upper(name) as a, left(name, 1) as b, split_part(name, 'a', 1) as c, substring(name from 'x') as d, name || motto as e from teams;

-- name: regexps :many
-- @needs: 15
-- @expect: a?[?] b c d | 0..n
select regexp_match(name, 'a') as a, regexp_replace(name, 'a', 'b') as b, regexp_count(name, 'a') as c, name ~ 'a' as d from teams;

-- name: casts :many
-- @needs: 15
-- @expect: a b? c d? | 0..n
select size::text as a, name::varchar(3) as b, size::numeric as c, score::int as d from teams cross join members;

-- name: casts_of_json :many
-- @needs: 15
-- @expect: a b? c | 0..n
select notes::text as a, (notes -> 'b')::int as b, jsonb_typeof(notes) as c from members where jsonb_typeof(notes) = 'object';

-- name: json_to_int :many
-- @needs: 15
-- @expect: a? | 0..n
select (notes -> 'a')::int as a from members where notes ? 'a';

-- name: json_operators :many
-- @needs: 15
-- @expect: a? b? c? d e | 0..n
select notes -> 'a' as a, notes ->> 'a' as b, notes #> '{a,b}' as c, notes || '{}' as d, notes ? 'a' as e from members;

-- name: json_built :many
-- @needs: 15
-- @expect: a b c? d | 0..n
select jsonb_build_object('a', motto) as a, to_jsonb(name) as b, to_jsonb(motto) as c, json_build_array(motto) as d from teams;

-- name: times :many
-- @needs: 15
-- @expect: a b c? d | 0..n
select now() as a, current_date as b, seen + interval '1 day' as c, date_trunc('day', now()) as d from members;

-- name: extracted :many
-- @needs: 15
-- @expect: a? b? c? d? | 0..n
select extract(day from born) as a, extract(year from now()) as b, to_char(born, 'YYYY') as c, born::text as d from members;

-- name: infinite_times :many
-- @needs: 15
-- @expect: a? b? | 0..n
select to_char(seen, 'YYYY') as a, extract(day from seen) as b from members where seen is not null;

-- name: comparisons :many
-- @needs: 15
-- @expect: a b? c d e | 0..n
select size = 1 as a, motto = 'a' as b, motto is null as c, motto is distinct from 'a' as d, size between 1 and 3 as e from teams;

-- name: boolean_logic :many
-- @needs: 15
-- @expect: a b? c? d | 0..n
select size > 1 and name = 'a' as a, size > 1 or motto = 'a' as b, not (motto = 'a') as c, (motto = 'a') is true as d from teams;

-- name: in_lists :many
-- @needs: 15
-- @expect: a b? c d? | 0..n
select size in (1, 2) as a, size in (1, null) as b, name = any (array['a', 'b']) as c, motto in ('a') as d from teams;

-- name: in_queries :many
-- @needs: 15
-- @expect: a b? c | 0..n
select size in (select rank from members) as a, size in (select team_id from members) as b, size > all (select rank from members) as c from teams;

-- name: any_of_given :many
-- @needs: 15
-- @expect: a b | 0..n
select name = any (:names::text[]) as a, size = any (:ids::int[]) as b from teams;

-- name: any_of_column :many
-- @needs: 15
-- @expect: a? b? | 0..n
select rank = any (marks) as a, email = any (labels) as b from members;

-- name: parameters :many
-- @needs: 15
-- @expect: a b? c d | 1..1
select :id::int as a, :maybe_id::int as b, :name::text || 'x' as c, coalesce(:maybe_name::text, 'x') as d;

-- name: enums :many
-- @needs: 15
-- @expect: a b c?[?] | 0..n
select mood as a, mood::text as b, enum_range(mood) as c from members;

-- name: domains :many
-- @needs: 15
-- @expect: a b? c | 0..n
select code as a, other as b, code || 'x' as c from side.orders;

-- name: composites :many
-- @needs: 15
-- @expect: a? b c | 0..n
select (home).town as a, home is null as b, row(id, email) is not null as c from members;

-- name: generated_columns :many
-- @needs: 18
-- @expect: initial? doubled? more? | 0..n
select initial, doubled, doubled + 1 as more from members;

-- name: not_null_without_children :many
-- @needs: 15
-- @expect: id name? | 0..n
select id, name from animals;

-- name: child_table :many
-- @needs: 15
-- @expect: id name? lives | 0..n
select id, name, lives from cats;

-- name: only_the_parent :many
-- @needs: 15
-- @expect: name? | 0..n
select name from only animals;

-- name: partitions :many
-- @needs: 15
-- @expect: id kind detail? | 0..n
select id, kind, detail from events;

-- name: one_partition :many
-- @needs: 15
-- @expect: id kind detail? | 0..n
select id, kind, detail from logins;

-- name: scalar_subquery :many
-- @needs: 15
-- @expect: a? b | 0..n
select (select name from teams where id = m.team_id) as a, (select count(*) from teams) as b from members m;

-- name: scalar_subquery_having :many
-- @needs: 15
-- @expect: a? | 1..1
select (select count(*) from teams having count(*) > 1) as a;

-- name: scalar_subquery_offset :many
-- @needs: 15
-- @expect: a? b | 1..1
select (select count(*) from teams offset 1) as a, (select count(*) from teams limit 1) as b;

-- name: exists_and_array :many
-- @needs: 15
-- @expect: a b[] c[?] | 1..1
select exists (select from teams) as a, array(select name from teams) as b, array(select motto from teams) as c;

-- name: functions_of_ours :many
-- @needs: 15
-- @expect: a? b? | 1..1
select name_of(1) as a, add_one(1) as b;

-- name: windows :many
-- @needs: 15
-- @expect: a b c? d | 0..n
select row_number() over () as a, rank() over (order by size) as b, lag(name) over (order by id) as c, lag(name, 1, '') over (order by id) as d from teams;

-- name: window_aggregates :many
-- @needs: 15
-- @expect: a? b c? d? | 0..n
select sum(size) over () as a, count(motto) over (order by id) as b, first_value(name) over (order by id) as c, ntile(2) over (order by id) as d from teams;

-- name: window_frames :many
-- @needs: 15
-- @expect: a? b? | 0..n
select sum(size) over (order by id rows between 2 preceding and 1 preceding) as a, max(name) over (partition by motto) as b from teams;

-- name: filters_as_facts :many
-- @needs: 15
-- @expect: motto name | 0..n
select motto, name from teams where motto is not null;

-- name: filters_by_comparison :many
-- @needs: 15
-- @expect: motto | 0..n
select motto from teams where motto > 'a' and size = 1;

-- name: filters_by_or :many
-- @needs: 15
-- @expect: motto? | 0..n
select motto from teams where motto is not null or size = 1;

-- name: filters_by_any :many
-- @needs: 15
-- @expect: motto | 0..n
select motto from teams where motto = any (:names::text[]);

-- name: filters_by_like :many
-- @needs: 15
-- @expect: motto | 0..n
select motto from teams where motto like 'a%';

-- name: filters_negated :many
-- @needs: 15
-- @expect: motto? | 0..n
select motto from teams where not (motto is null);

-- name: array_columns :many
-- @needs: 15
-- @expect: labels[?] marks?[?] c[?] d[] | 0..n
select labels, marks, coalesce(marks, '{}') as c, array_remove(labels, null) as d from members;

-- name: array_literals :many
-- @needs: 15
-- @expect: a[] b[?] c[?] d[] | 1..1
select array[1, 2] as a, array[1, null] as b, '{a,null}'::text[] as c, array[]::int[] as d;

-- name: array_functions :many
-- @needs: 15
-- @expect: a[] b[?] c[] d?[?] | 0..n
select string_to_array(name, ',') as a, string_to_array(name, ',', 'a') as b, array_append(array[size], size) as c, array[name] || motto as d from teams;

-- name: array_casts :many
-- @needs: 15
-- @expect: a[] b[?] c[] | 0..n
select array[size]::text[] as a, labels::varchar[] as b, array_agg(notes)::text[] as c from teams, members group by size, labels;

-- name: array_elements :many
-- @needs: 15
-- @expect: a? b? c? d e?[?] | 0..n
select labels[1] as a, (array[1, 2])[1] as b, array_length(labels, 1) as c, cardinality(labels) as d, labels[1:2] as e from members;

-- name: unnested :many
-- @needs: 15
-- @expect: a? | 0..n
select unnest(array[1, 2]) as a;

-- name: unnested_rows :many
-- @needs: 15
-- @expect: x? n | 0..n
select x, n from unnest(array['a', null]) with ordinality as u (x, n);

-- name: series :many
-- @needs: 15
-- @expect: n | 0..n
select n from generate_series(1, 3) as n;

-- name: two_functions :many
-- @needs: 15
-- @expect: a? b? | 0..n
select a, b from rows from (generate_series(1, 2), generate_series(1, 3)) as f (a, b);

-- name: json_each :many
-- @needs: 15
-- @expect: k v? | 0..n
select k, v from jsonb_each_text('{"a": null}') as e (k, v);

-- name: json_rows :many
-- @needs: 15
-- @expect: a? b? | 0..n
select t.a, t.b from jsonb_to_recordset('[{"a": 1}]') as t (a int, b text);

-- name: json_table_columns :many
-- @needs: 17
-- @expect: n? a? | 0..n
select t.n, t.a from json_table('[{"a": 1}, {}]', '$[*]' columns (n for ordinality, a int path '$.a')) as t;

-- name: values_list :many
-- @needs: 15
-- @expect: column1 column2? column3? | 1..n
values (1, 'a', null), (2, null, 'b');

-- name: distinct_rows :many
-- @needs: 15
-- @expect: name motto? | 0..n
select distinct name, motto from teams;

-- name: ordered_rows :many
-- @needs: 15
-- @expect: name | 0..n
select name from teams order by motto, id;

-- name: json_itself_cast :many
-- @needs: 15
-- @expect: a? | 0..n
select notes::int as a from members where jsonb_typeof(notes) in ('null', 'number');
