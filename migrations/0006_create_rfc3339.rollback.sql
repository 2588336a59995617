drop function rfc3339(timestamptz);
