drop function rfc3339_utc(timestamptz);
