set local lock_timeout = '3s';

alter table users
    drop constraint users_email_is_canonical,
    drop constraint users_display_name_is_a_line,
    drop constraint users_created_at_has_a_year,
    drop constraint users_updated_at_has_a_year;
