"""The configuration: one frozen struct, read from the environment once, at start."""

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self, get_type_hints

import msgspec
from msgspec import Meta, Struct

from svc.database_url import DatabaseUrl

PACKAGE = Path(__file__).parent
"""The folder of the package."""

CHECKOUT = PACKAGE.parent
"""The folder that holds the package: the checkout's root, unless the package was installed."""

Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1, le=1000)]


class ConfigError(Exception):
    """One or more environment variables are wrong; the message names each on a line of its own."""


class Networks(tuple[IPv4Network | IPv6Network, ...]):
    """Addresses and networks, `10.0.0.0/8, ::1`."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        return cls(ip_network(each) for each in split(value))


class Origins(tuple[str, ...]):
    """Origins of pages as browsers send them, `https://app.example, http://localhost:3000` (RFC 6454)."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        origins = cls(split(value))
        for origin in origins:
            if not re.fullmatch(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?", origin):
                raise ValueError(
                    "Expected origins such as https://app.example, in lower case, without a path"
                )
        return origins


def split(value: object) -> list[str]:
    """Return what stands between commas."""
    return [each.strip() for each in str(value).split(",") if each.strip()]


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. VARIABLES tells each field's environment variable."""

    database_url: Annotated[
        DatabaseUrl | None, Meta(description="PostgreSQL to use; none: an embedded one")
    ] = None
    data_dir: Annotated[
        str, Meta(min_length=1, description="Where the embedded PostgreSQL keeps its data")
    ] = str(CHECKOUT / ".data" if (CHECKOUT / "pyproject.toml").exists() else Path.cwd() / ".data")
    open_registration: Annotated[bool, Meta(description="Whether `POST /users` needs no key")] = False
    pool_size: Annotated[Count, Meta(description="Connections per worker")] = 20
    queue_size: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Requests that may wait for a connection")
    ] = 1000
    connect_timeout: Annotated[Seconds, Meta(description="Seconds to reach the database")] = 5.0
    acquire_timeout: Annotated[Seconds, Meta(description="Seconds to wait for a connection")] = 5.0
    query_timeout: Annotated[Seconds, Meta(description="Seconds a query may take")] = 10.0
    slow_query_timeout: Annotated[
        Seconds, Meta(description="Seconds a page or a count may take that walks rows as no index finds them")
    ] = 5.0
    statement_cache: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Prepared statements a connection keeps; 0 for PgBouncer before 1.21",
        ),
    ] = 200
    batching: Annotated[bool, Meta(description="Whether point reads and small changes leave in batches")] = (
        True
    )
    short_cut: Annotated[
        bool,
        Meta(description="Whether plain reads of a row or a page are answered without a parser and ASGI"),
    ] = True
    max_head: Annotated[int, Meta(ge=4096, le=2**20, description="Bytes a request's head may have")] = 65_536
    request_timeout: Annotated[
        Seconds,
        Meta(
            description="Seconds a request may take to come in; its body may take one more for each 500 bytes"
        ),
    ] = 20.0
    max_body: Annotated[int, Meta(ge=1024, le=2**30, description="Bytes a request's body may have")] = 262_144
    allowed_hosts: Annotated[
        str, Meta(description="Hosts that are served, with commas between them; none: any")
    ] = ""
    allowed_origins: Annotated[
        Origins,
        Meta(
            description="Origins whose pages may use it (CORS), with commas between them; none: only its own"
        ),
    ] = Origins()
    trusted_proxies: Annotated[
        Networks,
        Meta(
            description="Proxies whose X-Forwarded-For tells the client's address, as addresses or networks"
        ),
    ] = Networks()
    keep_alive: Annotated[
        int, Meta(ge=1, le=3600, description="Seconds that a connection may be idle between two requests")
    ] = 75
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Connections of clients per worker; file descriptors are a bound, too",
        ),
    ] = 10_000
    max_held: Annotated[
        int, Meta(ge=2**20, le=2**40, description="Bytes of requests that are not whole, per worker")
    ] = 32 * 2**20
    max_import: Annotated[
        int, Meta(ge=1024, le=2**40, description="Bytes an import may have, and may take on disk")
    ] = 2**30
    transfer_timeout: Annotated[Seconds, Meta(description="Seconds an export or an import may take")] = 3600.0
    hash_memory: Annotated[
        int, Meta(ge=8, le=4_194_304, description="KiB of memory for one argon2id hash")
    ] = 19_456
    hash_passes: Annotated[Count, Meta(description="Passes of one argon2id hash")] = 2
    hash_threads: Annotated[Count, Meta(description="Passwords hashed at once, per worker")] = 1
    hash_queue: Annotated[int, Meta(ge=1, le=100_000, description="Passwords that may wait to be hashed")] = (
        100
    )
    log_errors: Annotated[
        Literal["safe", "full"],
        Meta(description="What of an error of the database is logged: all but values, or `full`"),
    ] = "safe"
    log_requests: Annotated[bool, Meta(description="One JSON line a request, on stderr")] = False


VARIABLES = {
    name: name.upper() if name in ("database_url", "open_registration") else f"SVC_{name.upper()}"
    for name in Config.__struct_fields__
}


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration. Raises ConfigError with every variable that is wrong.

    An empty value counts as not set. A variable that starts with SVC_ but is none of ours is an
    error too: it is a typing mistake that would otherwise go unnoticed.
    """
    fields = {variable: field for field, variable in VARIABLES.items()}
    values: dict[str, object] = {}
    wrong: list[str] = []
    for variable, text in environ.items():
        try:
            if text and (variable in fields or variable.startswith("SVC_")):
                values[fields[variable]] = read_value(fields[variable], text)
        except KeyError:
            wrong.append(f"{variable}: Unknown field")
        except msgspec.ValidationError as error:
            wrong.append(f"{variable}: {error}")
    if wrong:
        raise ConfigError("\n".join(sorted(wrong)))
    return Config(**values)  # type: ignore[arg-type]  # each was converted to its field's type


def read_value(field: str, text: str) -> object:
    """Return a variable's text as its field's type. Raises msgspec.ValidationError."""
    type_ = get_type_hints(Config, include_extras=True)[field]
    return msgspec.convert(text, type_, strict=False, dec_hook=lambda type_, value: type_.parse(value))


def find_folder(name: str) -> Path:
    """Return the folder of that name: inside an installed package, or beside it in a checkout."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else CHECKOUT / name
