-- API keys: the SHA-256 of a random token, never the token.

create table api_keys (
    id bigint generated always as identity,
    name text not null,
    key_hash bytea not null,
    scopes text[] not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    constraint api_keys_pkey primary key (id),
    constraint api_keys_key_hash_key unique (key_hash)
);

comment on column api_keys.key_hash is 'secret';
