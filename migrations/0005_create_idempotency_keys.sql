-- What `POST /users` answered to a request with an Idempotency-Key, so that a retry gets the same answer.
-- Of the client's key there is only a hash. The key itself is what the fingerprint of the body is keyed
-- with, and the body holds a password: nobody can try passwords against this table.

create table idempotency_keys (
    key_hash bytea not null,
    fingerprint bytea not null,
    user_id bigint not null,
    email text collate "C" not null,
    display_name text,
    created_at timestamptz not null,
    constraint idempotency_keys_pkey primary key (key_hash)
);

comment on column idempotency_keys.key_hash is 'secret';

comment on column idempotency_keys.fingerprint is 'secret';

create index idempotency_keys_created_at_idx on idempotency_keys (created_at);
