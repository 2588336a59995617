-- A moment as clients see it: RFC 3339 in UTC, with as many decimals as it has. RFC 3339 has no infinity and no year of five
-- digits, and its years have no BC: what others may have put there is shown as the first or the last moment that there is.
--
-- JSON has a timestamp in ISO 8601, whatever DateStyle says. The text of one moment takes half as long as by to_char; a
-- list of a hundred, json_agg(to_utc(…)), gets its Z from whoever reads it, and takes a third.
--
-- Functions of their own beside rfc3339_utc: the release before this one rests on that one.

create function to_utc(moment timestamptz) returns timestamp
    language sql immutable parallel safe
    return least(greatest(moment, timestamptz '0001-01-01 00:00Z'), timestamptz '9999-12-31 23:59:59.999999Z') at time zone 'UTC';

create function to_rfc3339(moment timestamptz) returns text
    language sql stable parallel safe
    return btrim(to_json(to_utc(moment))::text, '"') || 'Z';
