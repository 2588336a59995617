"""What `svc seed` makes: the same users each time, and plausible ones."""

import asyncio
import re
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import argon2
import msgspec
import psycopg
import pytest

from svc.accounts.passwords import Password, Passwords
from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.http.emails import Email
from svc.http.fields import JsonObject
from svc.postgres.secret import Secret
from svc.users.seed import PASSWORD
from tests.support import at, make_config
from tests.support.seeds import Sql, ask, digest, fill

COUNT = 20_000

PINNED = "ca73ea2d941d9b3390a4c9d440ae1710"
"""Of COUNT users of seed 1. Another digest is another data set: figures of before and after do not compare."""

COLUMNS = "id email hashed_password is_active display_name profile referred_by version created_at updated_at"
TIMES = {"created_at", "updated_at"}


@pytest.fixture(scope="module")
def seeded(server_url: DatabaseUrl, admin: Callable[[str], None], template: str) -> Iterator[Sql]:
    """Asks a database of COUNT users, for tests that leave it as it is."""
    name = f"{template}_seeded"
    admin(f"create database {name} template {template}")
    fill(make_config(at(server_url, name)), COUNT)
    with psycopg.connect(at(server_url, name), options="-c timezone=UTC") as connection:
        yield lambda statement: connection.execute(statement.encode()).fetchall()
    admin(f"drop database {name} with (force)")


# The same each time


def test_the_same_numbers_give_the_same_rows_on_every_server(seeded: Sql) -> None:
    assert digest(seeded) == PINNED


def test_no_setting_of_the_database_has_a_part_in_it(config: Config, seeded: Sql, sql: Sql) -> None:
    name = str(config.database_url).partition("?")[0].rpartition("/")[2]
    for setting in ("timezone = 'Asia/Kathmandu'", "datestyle = 'German'", "extra_float_digits = -5"):
        sql(f"alter database {name} set {setting}")
    fill(config, COUNT)
    sql("set timezone = 'UTC'; set datestyle = 'ISO'")
    assert digest(sql) == digest(seeded)


def test_fewer_users_are_the_first_ones_but_for_when_they_came(config: Config, seeded: Sql, sql: Sql) -> None:
    fill(config, 2000)
    for column in {*COLUMNS.split()} - TIMES:
        assert digest(sql, column, 2000) == digest(seeded, column, 2000), column


def test_another_seed_makes_others(config: Config, seeded: Sql, sql: Sql) -> None:
    fill(config, COUNT, 2)
    same = {column for column in COLUMNS.split() if digest(sql, column) == digest(seeded, column)}
    assert same == {"id"}


# Plausible


def test_emails_are_canonical_and_nobodys(seeded: Sql) -> None:
    emails = [email for (email,) in seeded("select email from users where id % 7 = 0 or id < 500")]
    assert [str(Email.parse(email)) for email in emails] == emails
    reserved = re.compile(r"[a-z]+[._-]?[a-z]+[0-9]*@([a-z]+\.)?example\.(com|org|net)")
    assert [email for (email,) in seeded("select email from users") if not reserved.fullmatch(email)] == []
    domains = dict(seeded("select split_part(email, '@', 2), count(*) from users group by 1"))
    assert len(domains) > 8
    assert max(domains.values()) > 3 * min(domains.values())


def test_names_are_of_many_languages_and_some_are_frequent(seeded: Sql) -> None:
    names = dict(seeded("select display_name, count(*) from users group by 1"))
    assert names.pop(None) == COUNT / 20
    assert len(names) > 1500
    assert max(names.values()) > 4 * statistics.median(names.values())
    assert sum(not name.isascii() for name in names) > 500
    languages = dict(
        seeded("select profile ->> 'language', count(*) from users where profile <> '{}' group by 1")
    )
    assert len(languages) == 15
    assert max(languages, key=lambda language: languages[language]) == "en"


def test_emails_are_written_as_their_users_are_called(seeded: Sql) -> None:
    rows = seeded("select email, display_name from users where profile ->> 'language' in ('en', 'hi')")
    named = [(email, name.lower().split()) for email, name in rows if name]
    assert len(named) > 3000
    assert all(re.match(f"{first}[._-]?{last}[0-9]*@", email) for email, (first, last) in named)


def test_sign_ups_follow_the_week_and_the_day_and_grow(seeded: Sql) -> None:
    assert ask(
        seeded, "min(created_at) - '2023-01-01Z' < '2 days' and '2026-01-01Z' - max(created_at) < '1 day'"
    )
    assert not ask(
        seeded,
        "bool_or(created_at <= before)",
        "join lateral (select max(created_at) as before from users u where u.id = users.id - 1) b on true",
    )
    days = [
        n
        for _, n in seeded(
            "select extract(isodow from created_at), count(*) from users group by 1 order by 1"
        )
    ]
    assert max(days[5:]) < 0.8 * min(days[:5])
    hours = [
        n
        for _, n in seeded("select extract(hour from created_at), count(*) from users group by 1 order by 1")
    ]
    assert len(hours) == 24
    assert sum(hours[:6]) < 0.3 * sum(hours[12:18])
    years = [
        n
        for _, n in seeded("select extract(year from created_at), count(*) from users group by 1 order by 1")
    ]
    assert len(years) == 3
    assert years[2] > 1.5 * years[1] > 1.5 * 1.5 * years[0]


def test_who_was_changed_was_changed_after_coming(seeded: Sql) -> None:
    assert 0.25 < ask(seeded, "avg((version > 1)::int)") < 0.35
    assert ask(
        seeded, "bool_and(case version when 1 then updated_at = created_at else updated_at > created_at end)"
    )
    assert ask(seeded, "max(updated_at) < '2026-01-01Z' and max(version) > 4")


DEPTHS = """
with recursive tree as (
    select id, id as root, 0 as depth from users where referred_by is null
    union all
    select u.id, root, depth + 1 from users as u join tree on u.referred_by = tree.id
)
select depth, count(*) from tree group by depth order by depth
"""


def test_referral_trees_are_of_uneven_depth_and_width(seeded: Sql) -> None:
    depths = dict(seeded(DEPTHS))
    assert sum(depths.values()) == COUNT, "nobody is in a circle"
    assert 0.6 * COUNT < depths[0] < 0.8 * COUNT
    assert len(depths) > 30
    assert depths[1] > 5 * depths[4] > 0
    assert ask(seeded, "bool_and(referred_by < id)")
    widths = [n for (n,) in seeded("select count(*) from users where referred_by > 0 group by referred_by")]
    assert max(widths) > 100
    assert widths.count(1) > len(widths) / 2


def test_profiles_are_objects_that_the_service_takes(seeded: Sql) -> None:
    kept = [JsonObject.parse(profile) for (profile,) in seeded("select profile from users")]
    profiles = [msgspec.json.decode(str(profile), type=dict[str, Any]) for profile in kept]
    full: list[Any] = [profile for profile in profiles if profile]
    assert 0.08 < 1 - len(full) / COUNT < 0.12
    assert {frozenset(profile) - {"settings"} for profile in full} == {
        frozenset(("city", "language", "interests", "newsletter"))
    }
    assert {type(profile["newsletter"]) for profile in full} == {bool}
    assert {len(profile["interests"]) for profile in full} == {0, 1, 2, 3, 4, 5}
    assert all(len({*profile["interests"]}) == len(profile["interests"]) for profile in full)
    assert len({interest for profile in full for interest in profile["interests"]}) == 32
    settings = [profile["settings"] for profile in full if "settings" in profile]
    assert 0.15 < len(settings) / COUNT < 0.25
    assert {each["theme"] for each in settings} == {"dark", "light"}
    assert {type(value) for each in settings for value in each["notifications"].values()} == {bool}


def test_one_in_twenty_is_inactive(seeded: Sql) -> None:
    assert 0.045 < ask(seeded, "avg((not is_active)::int)") < 0.055


def test_every_thousandth_has_the_known_password_and_no_other(seeded: Sql) -> None:
    ((ids, known),) = seeded(
        "select array_agg(id order by id), hashed_password from users group by 2 having count(*) > 1"
    )
    assert ids == [*range(1, COUNT, 1000)]
    others = [hashed for (hashed,) in seeded("select hashed_password from users where id between 2 and 9")]
    assert {argon2.extract_parameters(hashed).memory_cost for hashed in [known, *others]} == {19456}
    assert argon2.extract_parameters(known).type == argon2.Type.ID

    async def verify(*tries: tuple[str, str]) -> list[bool]:
        passwords = Passwords(Config())
        try:
            return [await passwords.verify(Secret(hashed), Password(password)) for hashed, password in tries]
        finally:
            passwords.close()

    tries = [(known, PASSWORD), (known, f"{PASSWORD}!"), *((hashed, PASSWORD) for hashed in others)]
    assert asyncio.run(verify(*tries)) == [True] + [False] * 9


def test_rows_lie_in_order_and_the_planner_knows_them(seeded: Sql) -> None:
    correlation = "select correlation from pg_stats where tablename = 'users' and attname = 'created_at'"
    assert seeded(correlation)[0][0] > 0.95
    assert seeded("select reltuples from pg_class where relname = 'users'") == [(COUNT,)]
    assert len(seeded("select from pg_stats where tablename = 'users'")) == len(COLUMNS.split())
