-- RFC 3339 has no infinity and no year of five digits, and its years have no BC. What others may have put there is shown
-- as the first or the last moment that there is, so that no row is one that cannot be read. The two comparisons cost
-- nothing that could be measured beside to_char.
--
-- A function of its own beside rfc3339: the release before this one rests on that one, and is not ready where it changes.
-- rfc3339 can go when no release calls it any more.

create function rfc3339_utc(moment timestamptz) returns text
    language sql stable parallel safe
    return case
        when moment < '0001-01-01 00:00Z' then '0001-01-01T00:00:00Z'
        when moment >= '10000-01-01 00:00Z' then '9999-12-31T23:59:59.999999Z'
        else to_char(
            moment at time zone 'UTC',
            case when date_trunc('second', moment) = moment
                then 'YYYY-MM-DD"T"HH24:MI:SS"Z"' else 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"' end
        )
    end;
