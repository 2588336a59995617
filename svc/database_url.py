"""The address of a database, as libpq has it (PostgreSQL manual, 34.1.1.2), for both drivers to read alike.

asyncpg makes a setting of the server of each parameter that it does not know, and yoyo takes a URL apart in
a way of its own. So a URL is looked at here, once: what a parameter asks for is done, or the URL is refused.
"""

import os
import re
from collections.abc import Mapping
from typing import Self
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit, urlunsplit

TO_BOTH = frozenset(
    """host port dbname user password passfile service options krbsrvname gsslib sslcert sslkey sslrootcert
    sslcrl sslpassword""".split()
)
"""Parameters that both drivers understand, whatever they say."""

TLS = frozenset("sslcert sslkey sslpassword sslcrl ssl_min_protocol_version ssl_max_protocol_version".split())
"""What asyncpg does not look at where the system's certificates are trusted."""

FILES = frozenset(["sslcert", "sslkey", "sslrootcert", "sslcrl"])

TLS_VERSIONS = "TLSv1|TLSv1.1|TLSv1.2|TLSv1.3"
CHOICES: Mapping[str, str] = {
    "sslmode": "disable|allow|prefer|require|verify-ca|verify-full",
    "sslnegotiation": "postgres|direct",
    "ssl_min_protocol_version": TLS_VERSIONS,
    "ssl_max_protocol_version": TLS_VERSIONS,
    "target_session_attrs": "any|read-write|read-only|primary|standby|prefer-standby",
}
"""Parameters that both understand, and what they may say."""

OURS: Mapping[str, str] = {
    "application_name": ".*",
    "connect_timeout": "[0-9]{1,4}",
    "keepalives": "0|1",
    "keepalives_idle": "[0-9]{1,4}",
    "keepalives_interval": "[0-9]{1,4}",
    "keepalives_count": "[0-9]{1,2}",
    "tcp_user_timeout": "[0-9]{1,9}",
}
"""Those that asyncpg does not know, and that svc/postgres/connection.py sees to."""

IDLE: Mapping[str, str] = {
    "channel_binding": "disable|prefer",  # hosted databases say `require`: asyncpg has none (RFC 5802, 6)
    "gssencmode": "disable|prefer",
    "client_encoding": "(?i:utf-?8|auto)",
    "load_balance_hosts": "disable",
    "sslcompression": "0",
    "sslsni": "1",
    "fallback_application_name": ".*",
}
"""Those that ask asyncpg for nothing beyond what it does, as long as they say this."""

ADVICE = {"channel_binding": ": leave it out, and have sslmode=verify-full tell who the server is"}


class DatabaseUrl(str):
    """A PostgreSQL URL, `postgresql://user:password@host:port/database?parameter=value`.

    Suffixes that name a driver are taken off. Its repr hides the password; use the value itself
    only to connect.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        scheme, separator, rest = str(value).strip().partition("://")
        if not separator or scheme.split("+")[0] not in ("postgres", "postgresql"):
            raise ValueError("Expected a URL such as postgresql://user:password@host:5432/database")
        if re.search(r"[\x00-\x20\x7f]", rest):  # each driver makes something else of them
            raise ValueError("A blank or a line end must be written as %20 or %0A")
        url = cls(f"postgresql://{rest}")
        try:
            parts = urlsplit(url)
        except ValueError:  # whose message shows the password
            raise ValueError("The host is no name and no address") from None
        pairs = parts.query.split("&") if parts.query else []
        if parts.fragment or "@" in parts.path or not all("=" in pair for pair in pairs):
            raise ValueError("A password's #, / and ? must be written as %23, %2F and %3F")
        hosts = parts.netloc.rpartition("@")[2].split(",")
        ports = [host.rpartition(":")[2] for host in hosts if re.search(r":[^\]]*$", host)]
        if not all(re.fullmatch("[0-9]{1,5}", port) and int(port) < 65536 for port in ports):
            raise ValueError("A port is not a number from 0 to 65535")
        for name, text in url.parameters.items():
            check_parameter(name, text)
        check_together(url.parameters, parts)
        return url

    @property
    def parameters(self) -> dict[str, str]:
        """What stands behind the question mark. A plus is a plus there, and no blank as in a form."""
        query = urlsplit(self).query.replace("+", "%2B")
        return dict(parse_qsl(query, keep_blank_values=True))

    def for_asyncpg(self) -> str:
        """Return the same URL with what asyncpg understands."""
        known = TO_BOTH | CHOICES.keys()
        given = {name: text for name, text in self.parameters.items() if name in known}
        if given.get("sslrootcert") == "system":
            del given["sslrootcert"], given["sslmode"]
        return urlunsplit(urlsplit(self)._replace(query=urlencode(given, quote_via=quote)))

    def __repr__(self) -> str:
        parts = urlsplit(self)
        host = parts.netloc.rpartition("@")[2] or self.parameters.get("host") or "local socket"
        return f"{parts.path.lstrip('/') or 'postgres'} at {host}"


def check_together(parameters: Mapping[str, str], parts: SplitResult) -> None:
    """Raise ValueError for what is said twice, which each driver reads elsewhere, or cannot go together."""
    user, _, host = parts.netloc.rpartition("@")
    twice = {"host", "port"} if host else set[str]()
    twice |= {"user", "password"} if user else set()
    twice |= {"dbname"} if parts.path.strip("/") else set()
    if said := sorted(twice & parameters.keys()):
        raise ValueError(f"{', '.join(said)} may stand in one place only")
    if parameters.get("sslrootcert") == "system":
        others = TLS & parameters.keys()
        if parameters.get("sslmode") != "verify-full" or others:
            raise ValueError("sslrootcert=system goes with sslmode=verify-full, and with nothing else of TLS")


def check_parameter(name: str, text: str) -> None:
    """Raise ValueError for a parameter that is not known, or that asks for what cannot be done."""
    if name in FILES and text != "system" and not os.access(text, os.R_OK):
        raise ValueError(f"{name} is {text!r}, which cannot be read")
    if name in TO_BOTH:
        return
    allowed = {**CHOICES, **OURS, **IDLE}.get(name)
    if allowed is None:
        raise ValueError(f"{name!r} is no parameter of a connection to PostgreSQL that is known here")
    if not re.fullmatch(allowed, text):
        raise ValueError(f"{name} cannot be {text!r} here{ADVICE.get(name, '')}")
