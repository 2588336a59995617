"""A server on trial: what asks it over HTTP, and its database for the truth."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx
import psycopg
from msgspec import Struct
from psycopg.rows import TupleRow, class_row

from bench.expect import (
    decode,
    differ,
    expect_fields,
    expect_list,
    expect_status,
    expect_type,
    reject_secrets,
)
from bench.work import User

PAGE = 100
NDJSON = "application/x-ndjson"

ADD_USERS = r"""
insert into users (email, hashed_password, display_name, is_active, created_at)
select %(mark)s || n || '@example.com', '$argon2id$' || %(mark)s,
    case when n %% 3 > 0 then E'Zoë "' || n || E'"\u2028\\ 😀' end, n %% 4 > 0,
    now() - n * interval '1 day 1.234567 s'
from generate_series(1, %(page)s * 2 - (select count(*) from users) %% %(page)s) as n
"""
"""More than a page of users, and as many as make the last page of all a full one."""

REMOVE_USERS = """
delete from users
where id >= (select min(id) from users where email like %(mark)s) and lower(email) like %(mark)s
"""
"""A server may have stored an email as it was typed; the index on ids leads to what came after the first."""


class StoredUser(Struct, frozen=True):
    """A row of the table. `rest` is the JSON of all columns without a field here, as PostgreSQL prints it."""

    id: int
    email: str
    display_name: str | None
    is_active: bool
    created_at: datetime
    hashed_password: str
    version: int
    updated_at: datetime
    rest: str

    def public(self) -> User:
        """Return what clients see of it."""
        return User(self.id, self.email, self.display_name, self.is_active, self.created_at)


SELECT_PUBLIC = f"select {', '.join(User.__struct_fields__)} from users "
COLUMNS = StoredUser.__struct_fields__[:-1]
SELECT_STORED = f"""
select {", ".join(COLUMNS)}, (to_jsonb(users) - '{{{",".join(COLUMNS)}}}'::text[])::text as rest from users
"""


@dataclass(frozen=True)
class Trial:
    """A server, its database, and the cost that it was told to hash with, in KiB and passes.

    `key` is the `Authorization` that is let in; `mark` begins the emails of users made for the trial.
    """

    http: httpx.Client
    key: str
    database: psycopg.Connection[TupleRow]
    mark: str
    hash_memory: int
    hash_passes: int

    def add_users(self) -> None:
        """Put the trial's own users into the table."""
        self.database.execute(ADD_USERS, {"mark": self.mark, "page": PAGE})

    def remove_users(self) -> None:
        """Take them out, and whatever else was made under the mark."""
        self.database.execute(REMOVE_USERS, {"mark": f"{self.mark}%"})

    def query(self, sql: str, *parameters: object) -> list[TupleRow]:
        """Return the rows that the database answers."""
        return self.database.execute(sql.encode(), parameters).fetchall()

    def stored(self, rest: str, *parameters: object) -> list[User]:
        """Return users as clients should see them; `rest` follows `from users`."""
        with self.database.cursor(row_factory=class_row(User)) as cursor:
            return cursor.execute((SELECT_PUBLIC + rest).encode(), parameters).fetchall()

    def rows(self, rest: str, *parameters: object) -> list[StoredUser]:
        """Return whole rows of users; `rest` follows `from users`."""
        with self.database.cursor(row_factory=class_row(StoredUser)) as cursor:
            return cursor.execute((SELECT_STORED + rest).encode(), parameters).fetchall()

    def own(self) -> list[StoredUser]:
        """Return the trial's users, by id."""
        return self.rows("where email like %s order by id", f"{self.mark}%")

    def absent(self) -> int:
        """Return an id that no user has."""
        ((id_,),) = self.query("select max(id) + 1000000 from users")
        return int(id_)

    def send(
        self,
        method: str,
        path: str,
        key: str | None = None,
        *,
        json: object = None,
        params: Mapping[str, str | int] | None = None,
        lines: str | None = None,
    ) -> httpx.Response:
        """Return an answer, once it was seen to hold no secret.

        `key` stands in for the right one, "" for none; `lines` are a body of NDJSON.
        """
        given = {"Authorization": self.key if key is None else key, "Content-Type": NDJSON if lines else ""}
        headers = {field: value for field, value in given.items() if value}
        response = self.http.request(method, path, headers=headers, params=params, json=json, content=lines)
        reject_secrets(response)
        return response

    def ask(
        self, method: str, path: str, json: object = None, params: Mapping[str, str | int] | None = None
    ) -> object:
        """Return the JSON of an answer that must be 200."""
        response = self.send(method, path, json=json, params=params)
        expect_status(response, [200])
        expect_type(response, "application/json")
        return decode(response.content, f"{method} {path}")

    def page(self, limit: int | None, cursor: str | None) -> tuple[list[object], str | None]:
        """Return a page of the list, and the cursor of the next one."""
        given = {"limit": limit, "cursor": cursor}
        parameters = {name: value for name, value in given.items() if value is not None}
        answer = expect_fields(self.ask("GET", "/users", params=parameters), ["users", "next_cursor"])
        following = answer["next_cursor"]
        if following is not None and not (following and isinstance(following, str)):
            differ("next_cursor", "text or null", repr(following))
        return expect_list(answer["users"], "users"), following
