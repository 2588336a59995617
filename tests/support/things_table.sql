create table things (
    id bigint generated always as identity constraint things_pkey primary key,
    name text collate "C" not null constraint things_name_key unique,
    note text,
    size integer not null default 1 constraint things_size_is_positive check (size > 0),
    is_open boolean not null default true,
    details jsonb not null default '{}' constraint things_details_is_object check (jsonb_typeof(details) = 'object'),
    parent bigint constraint things_parent_fkey references things on delete set null,
    version bigint not null default 1,
    created_at timestamptz not null default now()
);

create index things_parent_idx on things (parent);
