"""Databases of all kinds by their URLs: parameters of hosted ones, odd names, TLS, standbys; in service and command alike."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from svc.config import Config, ConfigError, load
from svc.database_url import DatabaseUrl
from svc.migrations import migrate, read_status
from svc.postgres.connection import KEEP_ALIVE, connect
from tests.support import NUMBERS, at, make_config
from tests.support.command_line import Cli
from tests.support.debian import Debian, needs_debian
from tests.support.waiting import wait_for


async def ask(url: str, statement: str = "select current_database()") -> Any:
    """Ask a database something, as a service connects."""
    connection = await connect(make_config(load({"DATABASE_URL": url}).database_url))
    try:
        return await super(type(connection), connection).fetchval(statement)
    finally:
        await connection.close()


HOSTED = """channel_binding=prefer connect_timeout=10 connect_timeout=0 gssencmode=disable keepalives=1 keepalives=0
    keepalives_idle=30 keepalives_interval=10 keepalives_count=5 tcp_user_timeout=30000 application_name=mine
    options=-c%20search_path%3Dpublic client_encoding=UTF8 sslmode=prefer target_session_attrs=read-write
    target_session_attrs=primary sslsni=1 sslcompression=0 load_balance_hosts=disable fallback_application_name=x
    ssl_min_protocol_version=TLSv1.2 krbsrvname=postgres""".split()


@pytest.mark.parametrize("parameter", HOSTED)
def test_parameters_that_hosted_databases_hand_out_work(empty_url: DatabaseUrl, parameter: str) -> None:
    url = f"{empty_url}{'&' if '?' in empty_url else '?'}{parameter}"
    assert asyncio.run(ask(url)) in empty_url
    assert {each.state for each in asyncio.run(read_status(make_config(DatabaseUrl(url))))} == {"pending"}


REFUSED = """channel_binding=require gssencmode=require sslmode=yes target_session_attrs=master keepalives_idle=soon
    connect_timeout=-1 client_encoding=latin1 pgbouncer=true connection_limit=5 search_path=x statement_timeout=5
    sslrootcert=/nowhere.crt keepalives_idle=99999 keepalives_count=200 sslrootcert=system user=v dbname=e host=other port=1
    load_balance_hosts=random nope=hunter2 sslnegotiation=never""".split()


@pytest.mark.parametrize("parameter", REFUSED)
def test_what_cannot_be_done_is_named_before_anything_is_tried(parameter: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"DATABASE_URL": f"postgresql://u:hunter2@h/d?sslmode=require&{parameter}"})
    assert parameter.partition("=")[0] in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_line_end_behind_a_url_is_none_of_it(empty_url: DatabaseUrl) -> None:
    assert load({"DATABASE_URL": f" {empty_url}\n"}).database_url == empty_url
    with pytest.raises(ConfigError):
        load({"DATABASE_URL": "postgresql://u@h/a b"})


def test_all_that_the_parameters_of_a_connection_say_is_done(config: Config) -> None:
    more = "application_name=mine&options=-c%20work_mem%3D5MB"
    url = f"{config.database_url}{'&' if '?' in str(config.database_url) else '?'}{more}"
    wanted = "select current_setting('application_name') || ' ' || current_setting('work_mem')"
    assert asyncio.run(ask(url, wanted)) == "mine 5MB"


ODD = ["a b", "a%b", "a/b", "a?b", "ü#", "a+b", "a@b"]


@pytest.mark.parametrize("name", ODD)
def test_a_database_may_have_any_name_in_every_command(
    server_url: DatabaseUrl, admin: Callable[[str], None], name: str
) -> None:
    odd = f"{name} {next(NUMBERS)}"
    admin(f'create database "{odd}" template template0')
    escaped = "".join(f"%{byte:02X}" for byte in odd.encode())
    url = load({"DATABASE_URL": at(server_url, escaped)}).database_url
    assert url
    try:
        assert asyncio.run(ask(url)) == odd
        assert asyncio.run(migrate(make_config(url)))
        assert asyncio.run(migrate(make_config(url))) == []
    finally:
        admin(f'drop database "{odd}" with (force)')


def test_the_folder_of_a_socket_may_stand_where_the_host_does(empty_url: DatabaseUrl) -> None:
    folder = empty_url.parameters.get("host")
    if not folder:
        pytest.skip("the server has no socket")
    database = empty_url.partition("?")[0].rpartition("/")[2]
    url = DatabaseUrl(f"postgresql://bareline@{folder.replace('/', '%2F')}/{database}")
    assert asyncio.run(ask(url)) == database
    assert asyncio.run(migrate(make_config(url)))


def test_a_database_without_unicode_is_told_in_a_sentence(
    server_url: DatabaseUrl, admin: Callable[[str], None], tmp_path: Path
) -> None:
    name = f"latin_{next(NUMBERS)}"
    admin(f"create database {name} encoding 'LATIN1' locale_provider libc locale 'C' template template0")
    try:
        cli, said = (
            Cli(tmp_path, DATABASE_URL=at(server_url, name)),
            "its encoding is LATIN1, and the service needs UTF8",
        )
        for command in (["migrate"], ["keys", "list"]):
            assert said in cli.run(*command, code=1)
        with cli.serve() as served:
            assert served.get("/health/ready").status_code == 503
            wait_for(lambda: said in cli.output.read_text())
    finally:
        admin(f"drop database {name} with (force)")


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Debian:
    return Debian(tmp_path_factory.mktemp("debian"))


@pytest.fixture(scope="module")
def primary(debian: Debian) -> Iterator[tuple[int, Path]]:
    """A server that takes users with TLS alone, where they come through the network; and its certificate."""
    cluster = debian.make("primary")
    certificate = debian.make_certificate(cluster)
    access = "local all all trust\nhostssl all all all trust\nhost replication all all trust\n"
    (cluster / "pg_hba.conf").write_text(access)
    with debian.running(cluster, "ssl=on") as port:
        yield port, certificate


WITH_TLS = [
    ("localhost", "sslmode=require"),
    ("127.0.0.1", "sslmode=require"),
    ("127.0.0.1", "sslmode=prefer"),
    (
        "127.0.0.1",
        "sslmode=require&channel_binding=prefer&gssencmode=disable&connect_timeout=5&keepalives_idle=9",
    ),
    ("127.0.0.1", "sslmode=verify-ca&sslrootcert={certificate}"),
    ("localhost", "sslmode=verify-full&sslrootcert={certificate}"),
]


@needs_debian
@pytest.mark.parametrize(("host", "parameters"), WITH_TLS)
def test_a_server_with_tls_is_used_with_tls(primary: tuple[int, Path], host: str, parameters: str) -> None:
    port, certificate = primary
    url = f"postgresql://bareline@{host}:{port}/postgres?{parameters.format(certificate=certificate)}"
    assert asyncio.run(ask(url, "select ssl from pg_stat_ssl where pid = pg_backend_pid()")) is True
    assert asyncio.run(read_status(make_config(DatabaseUrl(url))))


WITHOUT_TRUST = [
    ("127.0.0.1", "sslmode=disable", "no encryption"),
    ("127.0.0.1", "sslmode=verify-full&sslrootcert={certificate}", "127.0.0.1"),
    ("localhost", "sslmode=verify-full&sslrootcert=system", "certificate"),
    ("localhost", "sslmode=verify-full", "root.crt"),
]


@needs_debian
@pytest.mark.parametrize(("host", "parameters", "said"), WITHOUT_TRUST)
def test_a_server_that_is_not_trusted_is_told_in_a_sentence(
    primary: tuple[int, Path], tmp_path: Path, host: str, parameters: str, said: str
) -> None:
    port, certificate = primary
    url = f"postgresql://bareline@{host}:{port}/postgres?{parameters.format(certificate=certificate)}"
    for command in (["migrate"], ["keys", "list"]):
        complaint = Cli(tmp_path, DATABASE_URL=url, HOME=str(tmp_path)).run(*command, code=1)
        assert complaint.startswith("svc: The database cannot be used: ")
        assert said in complaint


@needs_debian
def test_the_network_is_asked_to_tell_of_a_server_that_is_gone(primary: tuple[int, Path]) -> None:
    async def read_options(parameters: str) -> dict[str, int]:
        url = DatabaseUrl(f"postgresql://bareline@127.0.0.1:{primary[0]}/postgres?{parameters}")
        connection = await connect(make_config(url))
        wire = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        found = {
            name: wire.getsockopt(level, getattr(socket, option))
            for name, (level, option) in KEEP_ALIVE.items()
        }
        await connection.close()
        return found

    assert asyncio.run(read_options("sslmode=require"))["keepalives"] == 1
    assert asyncio.run(read_options("keepalives=0"))["keepalives"] == 0
    given = {"keepalives_idle": 31, "keepalives_interval": 7, "keepalives_count": 3, "tcp_user_timeout": 4000}
    read = asyncio.run(read_options("&".join(f"{name}={value}" for name, value in given.items())))
    assert read == {"keepalives": 1, **given}


@needs_debian
def test_a_standby_is_told_in_a_sentence_and_passed_over_for_the_primary(
    debian: Debian, primary: tuple[int, Path], tmp_path: Path
) -> None:
    with debian.running(debian.copy(primary[0], "standby"), "ssl=on") as standby:
        wanted = "?sslmode=prefer&target_session_attrs="
        alone = f"postgresql://bareline@127.0.0.1:{standby}/postgres"
        both = f"postgresql://bareline@127.0.0.1:{standby},127.0.0.1:{primary[0]}/postgres"
        for command in (["migrate"], ["keys", "list"]):
            for attribute in ("primary", "read-write"):
                complaint = Cli(tmp_path, DATABASE_URL=f"{alone}{wanted}{attribute}").run(*command, code=1)
                assert complaint == (
                    f"svc: The database cannot be used: no host has target_session_attrs={attribute}\n"
                )
        complaint = Cli(tmp_path, DATABASE_URL=alone).run("migrate", code=1)
        assert complaint == "svc: This server is a standby: migrations are for the primary\n"
        for attribute, port in (("read-write", primary[0]), ("primary", primary[0]), ("standby", standby)):
            assert asyncio.run(ask(both + wanted + attribute, "select inet_server_port()")) == port
        assert asyncio.run(migrate(make_config(DatabaseUrl(both + wanted + "read-write"))))
