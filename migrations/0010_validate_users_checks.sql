-- Looks at the rows there are, while others read and write. Where some break a rule, that rule stays as it is, for new rows
-- alone: it is no reason to stop a rollout. `svc migrate` says so, the service's log at each start, and
-- docs/configuration.md how to find the rows.

set local statement_timeout = 0;

do $$
declare
    rule text;
begin
    foreach rule in array '{users_email_is_canonical, users_display_name_is_a_line, users_created_at_has_a_year,
        users_updated_at_has_a_year}'::text[]
    loop
        begin
            execute format('alter table users validate constraint %I', rule);
        exception when check_violation then
            raise warning '% is not validated: there are users who break it', rule;
        end;
    end loop;
end
$$;
