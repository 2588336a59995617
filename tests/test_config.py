"""The configuration: what the environment may say, and how it is told that it is wrong."""

import pickle

import pytest

from svc.config import VARIABLES, Config, ConfigError, find_folder, load
from svc.database_url import DatabaseUrl

SECRET = "hunter2"  # a password that no output may hold


def refusals(**environ: str) -> dict[str, str]:
    """The lines of the error that this environment is refused with, by variable."""
    with pytest.raises(ConfigError) as caught:
        load(environ)
    return dict(line.split(": ", 1) for line in str(caught.value).splitlines())


def test_an_empty_environment_gives_the_defaults() -> None:
    config = load({})
    assert config == Config()
    assert config.database_url is None
    assert not config.open_registration
    assert not config.log_requests
    assert (config.pool_size, config.query_timeout, config.max_body) == (20, 10.0, 262_144)
    assert (config.hash_memory, config.hash_passes) == (19_456, 2)  # OWASP's floor for argon2id


def test_every_setting_has_a_variable_and_is_read_from_it() -> None:
    values = {
        "DATABASE_URL": "postgresql://bareline@db.example/users",
        "OPEN_REGISTRATION": "true",
        "SVC_DATA_DIR": "/srv/data",
        "SVC_POOL_SIZE": "3",
        "SVC_QUEUE_SIZE": "7",
        "SVC_CONNECT_TIMEOUT": "1.5",
        "SVC_ACQUIRE_TIMEOUT": "2.5",
        "SVC_QUERY_TIMEOUT": "0.25",
        "SVC_SLOW_QUERY_TIMEOUT": "0.125",
        "SVC_STATEMENT_CACHE": "0",
        "SVC_BATCHING": "false",
        "SVC_SHORT_CUT": "0",
        "SVC_MAX_HEAD": "4096",
        "SVC_REQUEST_TIMEOUT": "3.5",
        "SVC_LOG_ERRORS": "full",
        "SVC_MAX_BODY": "2048",
        "SVC_ALLOWED_HOSTS": "a.example,b.example",
        "SVC_ALLOWED_ORIGINS": "https://app.example, http://localhost:3000",
        "SVC_TRUSTED_PROXIES": "10.0.0.0/8,::1",
        "SVC_KEEP_ALIVE": "20",
        "SVC_MAX_CONNECTIONS": "50",
        "SVC_MAX_HELD": "2000000",
        "SVC_MAX_IMPORT": "5000000",
        "SVC_TRANSFER_TIMEOUT": "60",
        "SVC_HASH_MEMORY": "8",
        "SVC_HASH_PASSES": "1",
        "SVC_HASH_THREADS": "4",
        "SVC_HASH_QUEUE": "5",
        "SVC_LOG_REQUESTS": "1",
    }
    config = load(values)
    assert set(values) == set(VARIABLES.values())
    unchanged = [name for name in VARIABLES if getattr(config, name) == getattr(Config(), name)]
    assert unchanged == []
    assert (config.database_url, config.query_timeout) == (values["DATABASE_URL"], 0.25)
    assert (config.open_registration, config.log_requests, config.statement_cache) == (True, True, 0)


def test_variables_of_other_programs_are_none_of_ours() -> None:
    assert load({"PATH": "/bin", "PGHOST": "elsewhere", "SVCX": "1", "svc_pool_size": "99"}) == Config()


def test_every_wrong_variable_is_named_in_one_error() -> None:
    wrong = refusals(
        DATABASE_URL="mysql://db.example/users",
        OPEN_REGISTRATION="perhaps",
        SVC_DATA_DIR="/srv/data",
        SVC_POOL_SIZE="0",
        SVC_QUERY_TIMEOUT="soon",
        SVC_POOLSIZE="3",
    )
    assert wrong.keys() == {
        "DATABASE_URL",
        "OPEN_REGISTRATION",
        "SVC_POOL_SIZE",
        "SVC_QUERY_TIMEOUT",
        "SVC_POOLSIZE",
    }
    assert all(wrong.values())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SVC_POOL_SIZE", "1001"),
        ("SVC_POOL_SIZE", "-1"),
        ("SVC_POOL_SIZE", "2.5"),
        ("SVC_POOL_SIZE", "9" * 5000),
        ("SVC_QUEUE_SIZE", "0"),
        ("SVC_CONNECT_TIMEOUT", "0"),
        ("SVC_ACQUIRE_TIMEOUT", "3601"),
        ("SVC_QUERY_TIMEOUT", "nan"),
        ("SVC_QUERY_TIMEOUT", "inf"),
        ("SVC_STATEMENT_CACHE", "-1"),
        ("SVC_MAX_BODY", "1023"),
        ("SVC_HASH_MEMORY", "7"),
        ("SVC_HASH_PASSES", "0"),
        ("OPEN_REGISTRATION", "2"),
        ("SVC_ALLOWED_ORIGINS", "*"),
        ("SVC_ALLOWED_ORIGINS", "https://app.example/"),
        ("SVC_ALLOWED_ORIGINS", "app.example"),
        ("SVC_ALLOWED_ORIGINS", "null"),
        ("SVC_TRUSTED_PROXIES", "*"),
        ("SVC_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("SVC_TRUSTED_PROXIES", "proxy.example"),
    ],
)
def test_a_value_out_of_its_range_is_refused(variable: str, value: str) -> None:
    assert refusals(**{variable: value}).keys() == {variable}


@pytest.mark.parametrize(
    "variable", ["SVC_POOLSIZE", "SVC_DATABASE_URL", "SVC_OPEN_REGISTRATION", "SVC_pool_size", "SVC_"]
)
def test_a_misspelt_variable_of_ours_is_refused(variable: str) -> None:
    assert refusals(**{variable: "1"}).keys() == {variable}


@pytest.mark.parametrize("variable", ["DATABASE_URL", "OPEN_REGISTRATION", "SVC_POOL_SIZE", "SVC_UNKNOWN"])
def test_an_empty_value_counts_as_not_set(variable: str) -> None:
    assert load({variable: ""}) == Config()


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("postgresql://u:p@h:5432/d", "postgresql://u:p@h:5432/d"),
        ("postgres://u:p@h/d", "postgresql://u:p@h/d"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql://u:p@h/d"),
        ("postgres+psycopg2://h/d", "postgresql://h/d"),
        ("postgresql+psycopg:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql"),
        ("postgresql://u:p%40%2F%23@h/d?sslmode=require", "postgresql://u:p%40%2F%23@h/d?sslmode=require"),
        ("postgresql://u@[::1]:5433/d", "postgresql://u@[::1]:5433/d"),
        ("postgresql://h/d?user=u@tenant&password=p@ss", "postgresql://h/d?user=u@tenant&password=p@ss"),
    ],
)
def test_a_database_url_loses_its_driver_and_nothing_else(given: str, plain: str) -> None:
    url = load({"DATABASE_URL": given}).database_url
    assert url == plain
    assert isinstance(url, DatabaseUrl)


@pytest.mark.parametrize("hosts", ["h1,h2", "h1:5432,h2:5433"])
def test_a_database_url_may_name_the_hosts_of_a_failover(hosts: str) -> None:
    url = f"postgresql://u:p@{hosts}/d?target_session_attrs=read-write"
    assert load({"DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/d",
        f"postgresqlx://u:{SECRET}@h/d",
        f"u:{SECRET}@h/d",
        f"postgresql:u:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h:port/d",
        f"postgresql://u:{SECRET}@h:65536/d",
        f"postgresql://u:{SECRET}@[::1/d",
    ],
)
def test_a_bad_database_url_is_refused_without_its_password(url: str) -> None:
    wrong = refusals(DATABASE_URL=url)
    assert wrong.keys() == {"DATABASE_URL"}
    assert SECRET not in wrong["DATABASE_URL"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://u:{SECRET}@h:5432/d", "d at h:5432"),
        (f"postgresql://u:{SECRET}@h", "postgres at h"),
        (f"postgresql:///d?host=/run/postgresql&password={SECRET}", "d at /run/postgresql"),
        (f"postgresql://u:{SECRET}@[::1]:5433/d", "d at [::1]:5433"),
    ],
)
def test_the_password_is_in_no_repr(url: str, shown: str) -> None:
    config = load({"DATABASE_URL": url})
    assert repr(config.database_url) == shown
    assert SECRET not in repr(config)
    assert SECRET not in f"{config!r} {config}"


@pytest.mark.parametrize(
    "password", [f"{SECRET}@x", f"7531#{SECRET}", f"7531/{SECRET}", f"7531?{SECRET}", f":{SECRET}"]
)
def test_a_password_that_should_have_been_escaped_is_refused_or_hidden(password: str) -> None:
    try:
        shown = repr(load({"DATABASE_URL": f"postgresql://u:{password}@h/d"}))
    except ConfigError as error:
        shown = str(error)
    assert SECRET not in shown
    assert "7531" not in shown


def test_a_configuration_is_the_same_in_another_process() -> None:
    config = load({"DATABASE_URL": f"postgresql://u:{SECRET}@h/d", "SVC_POOL_SIZE": "3"})
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config
    assert SECRET not in repr(copy)


def test_the_sql_is_found_beside_the_package() -> None:
    assert (find_folder("queries") / "users.sql").is_file()
    assert list(find_folder("migrations").glob("0001_*.sql"))
