-- What was applied, and the SHA-256 of the file it came from: an edited file is refused by name.

create table migration_checksums (
    migration_id text not null,
    checksum text not null,
    applied_at timestamptz not null default now(),
    constraint migration_checksums_pkey primary key (migration_id)
);
