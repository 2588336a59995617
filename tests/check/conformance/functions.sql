-- name: series_doubled :many
-- @needs: 15
-- @expect: n twice | 0..n
select n, n * 2 as twice from generate_series(1, 3) as n;

-- name: series_to_a_parameter :many
-- @needs: 15
-- @expect: n | 0..n
select n from generate_series(1, :maybe_n::int) as n;

-- name: unnested_labels :many
-- @needs: 15
-- @expect: id label? | 0..n
select m.id, label from members m, unnest(m.labels) as label;

-- name: unnested_with_ordinality :many
-- @needs: 15
-- @expect: id label? place | 0..n
select m.id, u.label, u.place from members m cross join unnest(m.labels) with ordinality as u (label, place);

-- name: unnested_side_by_side :many
-- @needs: 15
-- @expect: a? b? | 0..n
select a, b from unnest(array[1, 2], array['a']) as u (a, b);

-- name: rows_from_several :many
-- @needs: 15
-- @expect: a? b? | 0..n
select a, b from rows from (generate_series(1, 2), generate_series(1, 3)) as r (a, b);

-- name: split :many
-- @needs: 15
-- @expect: part number | 0..n
select part, number from string_to_table('a,b', ',') with ordinality as s (part, number);

-- name: keys_of_objects :many
-- @needs: 15
-- @expect: id k | 0..n
select m.id, k from members m cross join lateral jsonb_object_keys(case jsonb_typeof(m.notes) when 'object' then m.notes else '{}' end) as k;

-- name: each_of_objects :many
-- @needs: 15
-- @expect: key value? | 0..n
select e.key, e.value from members m cross join lateral jsonb_each_text(case jsonb_typeof(m.notes) when 'object' then m.notes else '{}' end) as e;

-- name: records_of_json :many
-- @needs: 15
-- @expect: a? b? | 0..n
select r.a, r.b from jsonb_to_recordset('[{"a": 1}]') as r (a int, b text);

-- name: table_of_json :many
-- @needs: 17
-- @expect: n? a? b? | 0..n
select j.n, j.a, j.b from members m, json_table(m.notes, '$' columns (n for ordinality, a int path '$.a', b text path '$.b' default 'x' on empty default 'y' on error)) as j;

-- name: parts_of_json :many
-- @needs: 15
-- @expect: a? b? c? d e f | 0..n
select notes -> 'a' as a, notes ->> 'a' as b, notes #>> '{a,0}' as c, notes ? 'a' as d, notes @> '{}' as e, jsonb_typeof(notes) as f from members;

-- name: subscripts :many
-- @needs: 15
-- @expect: a? b?[?] c? d? e? | 0..n
select labels[1] as a, labels[1:2] as b, notes['a'] as c, (home).town as d, array_position(labels, 'a') as e from members;

-- name: lengths_of_arrays :many
-- @needs: 15
-- @expect: a b? c? d[?] e[?] | 0..n
select cardinality(labels) as a, array_length(labels, 1) as b, array_upper(labels, 1) as c, labels || 'x'::text as d, array_append(labels, email) as e from members;

-- name: parts_of_times :many
-- @needs: 15
-- @expect: a? b? c? d? e? | 0..n
select extract(year from seen) as a, date_trunc('day', seen) as b, to_char(born, 'YYYY') as c, age(seen, seen) as d, extract(epoch from now()) as e from members;

-- name: values_of_enums :many
-- @needs: 15
-- @expect: mood a? b?[?] c d | 0..n
select mood, enum_first(mood) as a, enum_range(mood) as b, mood::text as c, 'sad'::mood as d from members;

-- name: values_of_domains :many
-- @needs: 15
-- @expect: code other? a b c | 0..n
select code, other, code || 'x' as a, coalesce(other, code) as b, upper(code) as c from side.orders;

-- name: texts :many
-- @needs: 15
-- @expect: a? b?[?] c d? e? f | 0..n
select substring(email from 'a(.)') as a, regexp_match(email, 'a') as b, split_part(email, '@', 2) as c, position('@' in email) as d, nullif(email, '') as e, regexp_replace(email, 'a', 'b') as f from members;

-- name: function_of_rows :many
-- @needs: 15
-- @expect: id? motto? name? | 0..n
select t.id, t.motto, f.name from members m cross join lateral team_rows() as t join team_rows() f on f.id = m.team_id;

-- name: rows_as_values :many
-- @needs: 15
-- @expect: whole made part? said? | 0..n
select t as whole, row(t.id, t.motto) as made, (t).motto as part, to_jsonb(t) ->> 'motto' as said from team_names t;

-- name: random_and_settings :many
-- @needs: 15
-- @expect: a b? c? d? e | 1..1
select random() as a, current_user as b, current_setting('no.such', true) as c, pg_typeof(:maybe_n::int) as d, version() as e;

-- name: safe_casts :many
-- @needs: 15
-- @expect: a b? c d e? f | 0..n
select id::text as a, score::int as b, labels::text as c, notes::text as d, (notes ->> 'b')::int as e, rank::numeric(5, 2) as f from members;

-- name: formatted :many
-- @needs: 15
-- @expect: a? b? c? d e? | 0..n
select format('%s %s', name, motto) as a, concat_ws(',', name, motto) as b, quote_literal(motto) as c, quote_nullable(motto) as d, name || motto as e from teams;

-- name: any_and_all :many
-- @needs: 15
-- @expect: a b? c? d e? | 0..n
select rank = any (array[1, 2]) as a, score = any (array[1.5]) as b, rank = all (marks) as c, email in ('a', 'b') as d, email not in ('a', null) as e from members;

-- name: greatest_of_several :many
-- @needs: 15
-- @expect: a b? c d? | 0..n
select greatest(rank, score) as a, least(score, null) as b, coalesce(score, rank, 0) as c, coalesce(score, born - born) as d from members;

-- name: body_gives_what_it_is_given :many
-- @needs: 15
-- @expect: a b? c? d | 1..1
select joined(:name, 'x', true) as a, joined(:maybe_name, 'x', true) as b, joined('a', null, true) as c, joined('a', 'b') as d;

-- name: body_by_names :many
-- @needs: 15
-- @expect: a b? | 1..1
select joined(loud => true, b => :name, a => 'a') as a, joined(loud => true, b => 'b', a => :maybe_name) as b;

-- name: body_of_a_strict_function :many
-- @needs: 15
-- @expect: a b? | 1..1
select either('a', :name) as a, either(:name, :maybe_name) as b;

-- name: body_without_a_row :many
-- @needs: 15
-- @expect: a? b? c? | 1..1
select motto_of(:n) as a, first_of(array['a', :name]) as b, nothing(1) as c;

-- name: body_in_from :many
-- @needs: 15
-- @expect: a b? | 1..n
select a, b from joined('a', :name, false) as a, joined('a', :maybe_name, false) as b;

-- name: body_of_columns :many
-- @needs: 15
-- @expect: a b? | 0..n
select joined(name, email, true) as a, joined(name, motto, true) as b from teams join members on team_id = teams.id;

-- name: body_of_bodies :many
-- @needs: 15
-- @expect: a b? | 1..1
select down(down(:n)) as a, down(down(:maybe_n)) as b;

-- name: body_of_arrays :many
-- @needs: 15
-- @expect: a[?] b[?] | 1..1
select all_of(array['a'], :name) as a, all_of(null, :maybe_name) as b;

-- name: arguments_by_name :many
-- @needs: 15
-- @expect: a b? | 1..1
select make_interval(secs => :n) > '0' as a, make_interval(days => :maybe_n) > '0' as b;
