-- A moment as clients see it: RFC 3339 in UTC, with as many decimals as it has. RFC 3339 has no infinity and no year of five
-- digits, and its years have no BC: what others may have put there is shown as the first or the last moment that there is.
--
-- JSON has a timestamp in ISO 8601, whatever DateStyle says. The text of one moment takes as long as by to_char, 0.4 µs; of
-- a list, json_agg(to_utc(…)), each takes 0.13 µs, and gets its Z from whoever reads it.
--
-- Functions of their own beside rfc3339_utc: the release before this one rests on that one.

create function to_utc(moment timestamptz) returns timestamp
    language sql immutable parallel safe
    return least(greatest(moment, timestamptz '0001-01-01 00:00Z'), timestamptz '9999-12-31 23:59:59.999999Z') at time zone 'UTC';

create function to_rfc3339(moment timestamptz) returns text
    language sql stable parallel safe
    return btrim(to_json(to_utc(moment))::text, '"') || 'Z';
