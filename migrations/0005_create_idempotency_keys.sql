-- What `POST /users` answered to a request with an Idempotency-Key, so that a retry gets the same answer.
-- A retry is one whose body is the same: the password is compared by its argon2 hash, the rest by a quick one.

create table idempotency_keys (
    key_hash bytea not null,
    body_hash bytea not null,
    hashed_password text not null,
    user_id bigint not null,
    email text collate "C" not null,
    display_name text,
    created_at timestamptz not null,
    constraint idempotency_keys_pkey primary key (key_hash)
);

comment on column idempotency_keys.key_hash is 'secret';

comment on column idempotency_keys.hashed_password is 'secret';

create index idempotency_keys_created_at_idx on idempotency_keys (created_at);
