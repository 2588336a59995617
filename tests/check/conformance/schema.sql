create schema side;

create type mood as enum ('glad', 'sad', 'so-so');
create domain code as text not null check (value <> '');
create domain maybe_code as text;
create type place as (town text, street text);

create table teams (
    id int generated always as identity (start with 100) primary key,
    name text not null unique,
    motto text,
    size int not null default 0,
    key text not null default ''
);
comment on column teams.key is 'secret';

create table members (
    id int generated always as identity (start with 100) primary key,
    team_id int references teams (id) on delete set null,
    boss_id int references members (id) on delete set null,
    email text not null,
    rank int not null default 0,
    score numeric,
    mood mood not null default 'glad',
    born date,
    seen timestamp with time zone,
    labels text[] not null default '{}',
    marks int[],
    notes jsonb not null default '{}',
    home place,
    token text,
    initial text generated always as (left(email, 1)) stored,
    doubled int generated always as (rank * 2) virtual,
    unique (team_id, email)
);
comment on column members.token is 'secret';

create table side.orders (
    id int generated always as identity (start with 100) primary key,
    member_id int not null references members (id) on delete cascade,
    code code,
    other maybe_code,
    total numeric not null
);

create table events (id int not null, kind text not null, detail text, primary key (id, kind)) partition by list (kind);
create table logins partition of events for values in ('login');
create table visits partition of events for values in ('visit');

create table animals (id int not null, name text, constraint has_name not null name no inherit);
create table cats (lives int not null default 9) inherits (animals);

create table halves (id int primary key, a text, b text);

create table stays (room int4range, during int4range, guest text, primary key (room, during without overlaps));

create view team_names as select id, name, motto from teams;
create view member_teams as select m.id, m.email, t.name as team from members m left join teams t on t.id = m.team_id;
create view shown_keys as select id, name, key as shown from teams;
create materialized view team_sizes as select t.id, count(m.id) as members from teams t left join members m on m.team_id = t.id group by t.id;

create function key_of(wanted int) returns text language sql as 'select key from teams where id = wanted';
create function name_of(wanted int) returns text language sql stable begin atomic select name from teams where id = wanted; end;
create function find_key(wanted int) returns text language plpgsql as $$ begin return (select key from teams where id = wanted); end $$;
create function add_one(n int) returns int language plpgsql as $$ begin return n + 1; end $$;
create function team_rows() returns setof teams language sql as 'select * from teams';

create table drafts (id int generated always as identity (start with 100) primary key, title text, body text not null default 'a');
create function blank() returns trigger language plpgsql as $$ begin new.title := null; return case when new.body <> '' then new end; end $$;
create trigger blank before insert or update on drafts for each row execute function blank();

create table papers (id int not null, kind text not null, title text) partition by list (kind);
create table letters partition of papers for values in ('login');
create function untitled() returns trigger language plpgsql as $$ begin new.title := null; return new; end $$;
create trigger untitled before insert on letters for each row execute function untitled();
create table wishes (id int not null, wish text);
create rule granted as on insert to wishes do instead insert into halves (id) values (new.id + 1000) returning id, a;

create function joined(a text, b text, loud bool default false) returns text language sql as 'select case when loud then upper(a || b) else a || b end';
create function either(a text, b text) returns text strict language sql as 'select coalesce(b, a)';
create function first_of(a text[]) returns text language sql as 'select max(x) from unnest(a) as x';
create function all_of(a text[], b text) returns text[] language sql as 'select array_append(a, b)';
create function motto_of(wanted int) returns text language sql as 'select name from teams where id = wanted';
create function down(n int) returns int language sql as 'select case when n <= 0 then 0 else n end';
create function nothing(n int) returns void language sql as 'select n';

create table slips (id int primary key, kind text, title text);
create trigger untitled before update on slips for each row execute function untitled();
create trigger kept before delete on slips for each row execute function untitled();
create table moved (id int not null, kind text not null, title text) partition by list (kind);
create table moved_here partition of moved for values in ('login');
create table moved_there partition of moved for values in ('visit');
create trigger untitled before insert on moved_there for each row execute function untitled();
