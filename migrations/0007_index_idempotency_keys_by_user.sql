-- Who is deleted is forgotten by the stored answers to retries as well. They are those of a day.
create index idempotency_keys_user_id_idx on idempotency_keys (user_id);
