-- RFC 7396, JSON Merge Patch, where the row is: no read, no race, no second round trip.

create function jsonb_merge_patch(target jsonb, patch jsonb) returns jsonb
language sql immutable parallel safe
as $$
    select case
        when jsonb_typeof(patch) <> 'object' then patch
        else (
            select coalesce(jsonb_object_agg(key, case
                when not patch ? key then value
                else jsonb_merge_patch(base.object -> key, patch -> key)
            end), '{}')
            from (select case when jsonb_typeof(target) = 'object' then target else '{}' end as object) as base,
                jsonb_each(base.object || patch)
            where patch -> key is distinct from 'null'
        )
    end
$$;
