-- A moment as the service's own JSON encoder writes it, so that JSON made here reads the same: in UTC, with six
-- decimals or none. Not `strict`: such a function is not inlined, and costs 2.6 µs a call instead of 0.6.

create function rfc3339(moment timestamptz) returns text
    language sql stable parallel safe
    return to_char(
        moment at time zone 'UTC',
        case when date_trunc('second', moment) = moment
            then 'YYYY-MM-DD"T"HH24:MI:SS"Z"' else 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"' end
    );
