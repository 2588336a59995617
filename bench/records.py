"""What a run of the suite leaves behind, record by record: the parts of raw.json.

Unless a field says otherwise, latencies are in ms and CPU times in µs a request; a figure that was not
measured is None, and is left out of the file.
"""

from typing import Literal, NamedTuple

from msgspec import Struct, field

NOT_OFFERED = "not offered"
"""The reason of a void run where the peer has no such route, which is no failure."""

Figure = Literal["rate", "p50", "p90", "p99", "p99_9", "cpu_service", "cpu_postgres", "memory", "offered"]
"""The fields of an outcome that are shown as medians."""


class CellKey(NamedTuple):
    """What tells one measured cell from another. `share` is None for the closed loop."""

    work: str
    rows: int
    connections: int
    share: float | None = None


class Outcome(Struct, kw_only=True, omit_defaults=True):
    """What one run of a peer or a ceiling did.

    `void` is the reason why its figures do not count, None where they do. `requests` are rows for exports
    and imports, and `rate` is requests per second. `memory` is the resident bytes of all processes of a
    peer.

    Of wrk there are `bytes` (received in all) and its errors by kind, `connect` to `timeout`; of the canary
    the answers that it saw; of pgbench the number of clients and the mean latency. At a fixed rate there are
    the rate that was `offered`, the 99th percentiles from the moment of sending and of the generator's own
    lag, and the share of the machine's CPU time that was used.
    """

    void: str | None
    requests: int | None = None
    seconds: float | None = None
    rate: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    p99_9: float | None = field(default=None, name="p99.9")
    cpu_service: float | None = None
    cpu_postgres: float | None = None
    memory: int | None = None
    bytes: int | None = None
    connect: int | None = None
    read: int | None = None
    write: int | None = None
    status: int | None = None
    timeout: int | None = None
    canaries: int | None = None
    clients: int | None = None
    mean_ms: float | None = None
    offered: float | None = None
    from_send_p99: float | None = None
    lag_p99: float | None = None
    limited_by_generator: bool = False
    machine_busy: float | None = None


class Run(Outcome, kw_only=True):
    """An outcome, and whose it is: attempt 1 or 2 of a round (from 1) in a cell; `ended` is in Unix time."""

    peer: str
    work: str
    rows: int
    connections: int
    share: float | None
    round: int
    attempt: int
    ended: float

    @property
    def cell(self) -> CellKey:
        """The cell that it belongs to."""
        return CellKey(self.work, self.rows, self.connections, self.share)


class Trips(Struct, omit_defaults=True):
    """SQL round trips a request by kind of work, one request at a time; None for a kind that failed.

    `point_64` is for point reads with 64 connections at once, `idle` the round trips a second without any
    request, None where they were not counted.
    """

    point: float | None = None
    page: float | None = None
    lookup: float | None = None
    patch: float | None = None
    create: float | None = None
    point_64: float | None = None
    idle: float | None = None


class PeerRecord(Struct, omit_defaults=True):
    """What was found of a peer before its runs: whether it is measured, and what was counted.

    `reasons` say why it is not measured. `starts` are seconds from a start to the first user read; `lines`
    are lines of code, `lines_core` those of the service for this contract alone; `megabytes` is the size of
    all its `packages`.
    """

    title: str
    state: Literal["measured", "not here", "failed"]
    reasons: list[str] = []
    starts: list[float] = []
    lines: int | None = None
    lines_core: int | None = None
    packages: int | None = None
    megabytes: float | None = None
    trips: Trips | None = None


class Environment(Struct, kw_only=True):
    """Where and with what a run was made. `memory_gb` is in 10⁹ bytes; a program that is not there is ""."""

    date: str
    command: str
    cpu: str
    cores: int | None
    memory_gb: float
    kernel: str
    python: str
    postgres: str
    wrk: str
    node: str
    go: str
    commit: str
    packages: dict[str, str]
