"""A server on trial: what asks it over HTTP, and its database for the truth."""

from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
from psycopg.rows import DictRow

from bench.expect import Row, decode, differ, expect_fields, expect_status, expect_type, reject_secrets

PUBLIC = ("id", "email", "display_name", "is_active", "created_at")
"""The fields of a user as clients see it, which are columns too."""

PAGE = 100

ADD_USERS = r"""
insert into users (email, hashed_password, display_name, is_active, created_at)
select %(mark)s || n || '@example.com', '$argon2id$' || %(mark)s,
    case when n %% 3 > 0 then E'Zoë "' || n || E'"\n\u2028\\ 😀' end, n %% 4 > 0,
    now() - n * interval '1 day 1.234567 s'
from generate_series(1, %(page)s * 2 - (select count(*) from users) %% %(page)s) as n
"""
"""More than a page of users, and as many as make the last page of all a full one."""

REMOVE_USERS = """
delete from users
where id >= (select min(id) from users where email like %(mark)s) and lower(email) like %(mark)s
"""
"""A server may have stored an email as it was typed; the index on ids leads to what came after the first."""


@dataclass(frozen=True)
class Trial:
    """A server, its database, and the cost that it was told to hash with.

    `key` is the `Authorization` that is let in; `mark` begins the emails of users made for the trial.
    """

    http: httpx.Client
    key: str
    database: psycopg.Connection[DictRow]
    mark: str
    hash_memory: int
    hash_passes: int

    def add_users(self) -> None:
        """Puts the trial's own users into the table."""
        self.database.execute(ADD_USERS, {"mark": self.mark, "page": PAGE})

    def remove_users(self) -> None:
        """Takes them out, and whatever else was made under the mark."""
        self.database.execute(REMOVE_USERS, {"mark": f"{self.mark}%"})

    def query(self, sql: str, *parameters: object) -> list[Row]:
        """What the database answers."""
        return self.database.execute(sql.encode(), parameters).fetchall()

    def stored(self, rest: str, *parameters: object) -> list[Row]:
        """Users as clients should see them; `rest` follows `from users`."""
        return self.query(f"select {', '.join(PUBLIC)} from users {rest}", *parameters)

    def own(self) -> list[Row]:
        """The trial's users, all columns of them, by id."""
        return self.query("select * from users where email like %s order by id", f"{self.mark}%")

    def absent(self) -> int:
        """An id that no user has."""
        return int(self.query("select max(id) + 1000000 as id from users")[0]["id"])

    def send(self, method: str, path: str, key: str | None = None, **request: Any) -> httpx.Response:
        """An answer, once it was seen to hold no secret; `key` stands in for the right one, "" for none."""
        headers = {"Authorization": self.key if key is None else key, **request.pop("headers", {})}
        headers = {field: value for field, value in headers.items() if value}
        response = self.http.request(method, path, headers=headers, **request)
        reject_secrets(response)
        return response

    def ask(self, method: str, path: str, **request: Any) -> Any:
        """The JSON of an answer that must be 200."""
        response = self.send(method, path, **request)
        expect_status(response, [200])
        expect_type(response, "application/json")
        return decode(response.content, f"{method} {path}")

    def page(self, limit: int | None, cursor: str | None) -> tuple[list[Any], str | None]:
        """A page of the list, and the cursor of the next one."""
        given = {"limit": limit, "cursor": cursor}
        parameters = {name: value for name, value in given.items() if value is not None}
        answer = expect_fields(self.ask("GET", "/users", params=parameters), ["users", "next_cursor"])
        users, following = answer["users"], answer["next_cursor"]
        if not isinstance(users, list):
            differ("users", "a list", users)
        if following is not None and not (following and isinstance(following, str)):
            differ("next_cursor", "text or null", repr(following))
        return users, following
