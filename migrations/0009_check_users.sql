-- What is put in past the service is held to what the service can show and find again. An email is in its canonical form,
-- as far as SQL can tell: no ASCII letter in upper case, one @, nothing invisible, NFC; of 254 bytes, the most that an
-- address may have, lower case can make half as many again. A name is a line of text, as Text in svc/http/fields.py.
-- U+10FFFF, which is no character, is in neither.
--
-- Not valid: that asks for no look at the rows there are, and the lock is held for a moment. Whoever waits for such a lock
-- has all others wait behind, so not for long: run the migration again. A statement spends 10 to 20 µs of CPU on these
-- four, of 60 that it takes PostgreSQL to insert one row and 80 to change one, and 1 to 2 on each row more.

set local lock_timeout = '3s';

set local standard_conforming_strings = on;

alter table users
    add constraint users_email_is_canonical check (
        email ~ '^[^@A-Z\x01-\x20\x7f-\xa0\u202a-\u202e\u2066-\u2069\U0010ffff]+@[^@A-Z\x01-\x20\x7f-\xa0\u202a-\u202e\u2066-\u2069\U0010ffff]+$'
        and octet_length(email) <= 381
        and email is nfc normalized
    ) not valid,
    add constraint users_display_name_is_a_line check (
        display_name ~ '^[^\x01-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U0010ffff]+$'
        and length(display_name) <= 200
    ) not valid,
    add constraint users_created_at_has_a_year check (
        created_at >= '0001-01-01 00:00Z' and created_at < '10000-01-01 00:00Z'
    ) not valid,
    add constraint users_updated_at_has_a_year check (
        updated_at >= '0001-01-01 00:00Z' and updated_at < '10000-01-01 00:00Z'
    ) not valid;
