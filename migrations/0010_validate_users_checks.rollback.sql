-- Nothing makes a rule not valid again but to add it anew.

set local lock_timeout = '3s';

do $$
declare
    rule record;
begin
    for rule in
        select conname as name, pg_get_constraintdef(oid) as definition
        from pg_constraint
        where conrelid = 'users'::regclass
            and conname in ('users_email_is_canonical', 'users_display_name_is_a_line', 'users_created_at_has_a_year',
                'users_updated_at_has_a_year')
            and convalidated
    loop
        execute format(
            'alter table users drop constraint %1$I, add constraint %1$I %2$s not valid', rule.name, rule.definition
        );
    end loop;
end
$$;
