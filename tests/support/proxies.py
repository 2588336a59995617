"""nginx, HAProxy and Caddy as processes of their own, with the very files of deploy/."""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support import CHECKOUT, Service, make_client, with_settings
from tests.support.raw import Ground, serve
from tests.support.waiting import DEADLINE, wait_for

Address = tuple[str, int]
Start = Callable[[str], "Proxy"]
"""Gives the proxy of a kind."""
Changes = tuple[tuple[str, str], ...]
"""Texts of a file, and what stands there instead of each."""

UNHURRIED: Mapping[str, Changes] = {
    "nginx": (("rate=100r/s", "rate=10000r/s"),),
    "haproxy": (("http_req_rate(0) gt 200", "http_req_rate(0) gt 100000"),),
    "caddy": (),
}
"""Tests ask faster than a client may."""

CARELESS: Changes = (
    *UNHURRIED["nginx"],
    (" max_fails=0", ""),
    ("client_max_body_size 256k", "client_max_body_size 0"),
)
"""An nginx that lets every body through, and takes a backend out as it does where nobody says otherwise."""

UNBUFFERED = (("proxy_http_version", "proxy_request_buffering off; proxy_buffering off; proxy_http_version"),)
OLD = (("proxy_http_version 1.1", "proxy_http_version 1.0"), ('proxy_set_header Connection "";', ""))


class Kind(NamedTuple):
    """A proxy, and what is changed in its file of deploy/."""

    name: str
    changes: Changes


SHIPPED = {name: Kind(name, changes) for name, changes in UNHURRIED.items()}

LETTING = {
    "nginx that buffers": Kind("nginx", CARELESS),
    "nginx that does not": Kind("nginx", (*CARELESS, *UNBUFFERED)),
    "nginx that buffers, HTTP/1.0": Kind("nginx", (*CARELESS, *OLD)),
    "nginx that does not, HTTP/1.0": Kind("nginx", (*CARELESS, *OLD, *UNBUFFERED)),
    "haproxy": SHIPPED["haproxy"],
    "caddy": SHIPPED["caddy"],
}
"""Those that let the service itself refuse bodies that are too large."""

KINDS = {**SHIPPED, **LETTING}

NGINX = """
daemon off;
user {user};
pid {folder}/nginx.pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {file};
}}
"""
"""What there is around a site in the nginx.conf of a distribution, as far as it matters."""


def run_nginx(file: Path, folder: Path) -> list[str]:
    """Return how nginx is run with a file."""
    main = folder / "main.conf"
    main.write_text(NGINX.format(user=getpass.getuser(), folder=folder, file=file))
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(main)]


def run_haproxy(file: Path, folder: Path) -> list[str]:
    """Return how HAProxy is run with a file."""
    return ["haproxy", "-db", "-f", str(file)]


def run_caddy(file: Path, folder: Path) -> list[str]:
    """Return how Caddy is run with a file."""
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]


class Program(NamedTuple):
    """A proxy's file in deploy/, and how it is run with a copy of that."""

    file: str
    command: Callable[[Path, Path], list[str]]


PROGRAMS = {
    "nginx": Program("nginx.conf", run_nginx),
    "haproxy": Program("haproxy.cfg", run_haproxy),
    "caddy": Program("Caddyfile", run_caddy),
}

PATH = f"{os.environ['PATH']}:/usr/sbin"
"""With the folder in which only root looks."""


class Proxy:
    """A proxy that runs, and where it listens."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.url = f"http://{address[0]}:{address[1]}"

    def client(self, token: str | None = None) -> httpx.Client:
        """A client that holds a key, or none."""
        return make_client(self.url, {"Authorization": f"Bearer {token}"} if token else {})

    def is_answering(self) -> bool:
        """Whether it passes on requests."""
        with suppress(httpx.TransportError), self.client() as client:
            return client.get("/health/live").status_code == 200
        return False


@contextmanager
def reserve_port() -> Iterator[int]:
    """Give a port that nobody else is given: bound, but not listened on, so that a proxy may do so as well."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def adapt(text: str, port: int, backends: Sequence[Address], changes: Changes) -> str:
    """Return a file of deploy/ with other addresses and these changes; what is changed must be there."""
    addresses = [
        (f"127.0.0.1:800{number}", f"{host}:{port}") for number, (host, port) in enumerate(backends, 1)
    ]
    for old, new in [("8080", str(port)), *addresses, *changes]:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def run_proxy(name: str, folder: Path, backends: Sequence[Address], changes: Changes) -> Iterator[Proxy]:
    """Run a proxy before two backends, from the time that it passes on requests."""
    if not shutil.which(name, path=PATH):
        pytest.skip(f"{name} is not installed")
    program = PROGRAMS[name]
    file, source, log = folder / program.file, CHECKOUT / "deploy" / program.file, folder / "log"
    environ = {"PATH": PATH, "HOME": str(folder), "CADDY_ADMIN": "localhost:0"}
    with reserve_port() as port, log.open("wb") as output:
        file.write_text(adapt(source.read_text(encoding="utf-8"), port, backends, changes))
        command = program.command(file, folder)
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environ)
        try:
            proxy = Proxy(("127.0.0.1", port))
            wait_for(lambda: proxy.is_answering() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield proxy
        finally:
            process.terminate()
            process.wait(DEADLINE)


@contextmanager
def serve_pair(ground: Ground, keep_alive: int = 75, **settings: Any) -> Iterator[list[Service]]:
    """Two services, each of which says in its answers which one it is."""
    config = with_settings(ground.config, **settings)
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                serve(config, own=False, headers=[("x-backend", name)], timeout_keep_alive=keep_alive)
            )
            for name in ("one", "two")
        ]


def check_both_serve(proxy: Proxy, key: str) -> None:
    """Ask until both backends have answered; every answer must be a good one."""
    seen = set()

    def ask() -> bool:
        answer = client.get("/users/1")
        assert answer.status_code == 200, answer.text
        seen.add(answer.headers["x-backend"])
        return seen == {"one", "two"}

    with proxy.client(key) as client:
        wait_for(ask)
