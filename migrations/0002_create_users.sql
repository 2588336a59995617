-- The users. Email holds one canonical form, made in svc/structs.py, unique on that form; it is
-- compared byte by byte, so that its index order does not depend on the operating system's locale.

create table users (
    id bigint generated always as identity,
    email text collate "C" not null,
    hashed_password text not null,
    is_active boolean not null default true,
    display_name text,
    profile jsonb not null default '{}',
    referred_by bigint,
    version bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint users_pkey primary key (id),
    constraint users_email_key unique (email),
    constraint users_referred_by_fkey foreign key (referred_by) references users (id) on delete set null,
    constraint users_referred_by_another check (referred_by <> id),
    constraint users_profile_is_object check (jsonb_typeof(profile) = 'object'),
    constraint users_profile_is_small check (octet_length(profile::text) <= 262144)
);

comment on column users.hashed_password is 'secret';

create index users_created_at_id_idx on users (created_at, id);

create index users_referred_by_idx on users (referred_by);
