drop function to_rfc3339(timestamptz);
drop function to_utc(timestamptz);
