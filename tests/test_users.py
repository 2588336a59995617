"""Users over real HTTP: what each route of one user answers."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import argon2
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svc.config import Config
from tests.conftest import Service, make_key, pointers, problem, with_settings

Sql = Callable[..., list[tuple[Any, ...]]]
Users = list[dict[str, Any]]

PUBLIC = {"id", "email", "display_name", "is_active", "created_at"}
NEW = {"email": "dan@example.com", "password": "tr0ub4dor&3"}
SPELLINGS = ("ADA@Example.COM", "  ada@example.com ", "Ada L <ada@EXAMPLE.com>", '"L, Ada" <Ada@example.com>')


def patch(client: httpx.Client, user: dict[str, Any], change: object, **headers: str) -> httpx.Response:
    """A merge patch of a user."""
    headers |= {"Content-Type": "application/merge-patch+json"}
    return client.patch(f"/users/{user['id']}", content=json.dumps(change), headers=headers)


def read(client: httpx.Client, users: Users) -> Users:
    """The users as they are now, profiles included."""
    fields = ",".join([*sorted(PUBLIC), "profile"])
    answers = [client.get(f"/users/{user['id']}?fields={fields}") for user in users]
    return [answer.raise_for_status().json() for answer in answers]


def test_a_user_that_was_registered_is_read_back(client: httpx.Client, users: Users) -> None:
    ada, bob, _ = users
    assert client.get(f"/users/{bob['id']}").json() == bob
    assert client.get(f"/users/{ada['id']}").json() == ada
    assert ada["email"] == "ada@example.com"


def test_register_answers_201_with_the_user_and_where_it_is(client: httpx.Client, users: Users) -> None:
    response = client.post("/users", json={**NEW, "email": "Dan <DAN@Example.com>"})
    assert response.status_code == 201
    user = response.json()
    assert user.keys() == PUBLIC
    assert (user["email"], user["display_name"], user["is_active"]) == ("dan@example.com", None, True)
    found = client.get(response.headers["location"])
    assert (found.json(), found.headers["etag"]) == (user, response.headers["etag"])
    assert not found.headers["etag"].startswith("W/")


def test_register_keeps_all_that_is_given(client: httpx.Client, users: Users, sql: Sql) -> None:
    optional = {"display_name": "Dan", "profile": {"a": [1, None, {"é": 2.5}]}}
    location = client.post("/users", json={**NEW, **optional, "referred_by": users[1]["id"]}).headers[
        "location"
    ]
    assert client.get(f"{location}?fields=display_name,profile").json() == optional
    ((hashed, referrer),) = sql(
        "select hashed_password, referred_by from users where email = %s", NEW["email"]
    )
    assert argon2.PasswordHasher().verify(hashed, NEW["password"])
    assert referrer == users[1]["id"]


@pytest.mark.parametrize("email", SPELLINGS)
def test_a_taken_email_is_answered_409(client: httpx.Client, users: Users, email: str) -> None:
    taken = [{"pointer": "#/email", "detail": "A user with this email exists"}]
    assert problem(client.post("/users", json={**NEW, "email": email}), 409)["errors"] == taken
    assert problem(patch(client, users[1], {"email": email}), 409)["errors"] == taken
    assert patch(client, users[0], {"email": email}).json() == users[0]
    assert client.get(f"/users/{users[1]['id']}").json() == users[1]


UNFIT: dict[str, set[str]] = {
    "[]": {"#"},
    "null": {"#"},
    "{}": {"#/email", "#/password"},
    '{"email": null, "password": null, "referred_by": null}': {"#/email", "#/password"},
    '{"email": "a@", "password": "7 chars", "display_name": "", "profile": [], "referred_by": 0, "x": 1}': {
        "#/email", "#/password", "#/display_name", "#/profile", "#/referred_by", "#/x",
    },
    '{"email": 1, "password": 1, "display_name": 1, "profile": 1, "referred_by": "1", "a/b~c": 1}': {
        "#/email", "#/password", "#/display_name", "#/profile", "#/referred_by", "#/a~1b~0c",
    },
    '{"email": "a b@c.de", "password": "\\u0000 zero", "profile": {"a": "\\u0000"}}': {
        "#/email", "#/password", "#/profile",
    },
    '{"email": "a@b.de\\n", "password": "7 chars", "display_name": "%s"}' % ("n" * 201): {
        "#/email", "#/password", "#/display_name",
    },
    '{"email": "a@", "password": "%s", "referred_by": 9223372036854775808}' % ("é" * 513): {
        "#/email", "#/password", "#/referred_by",
    },
    '{"email": "a@", "password": "7 chars", "profile": {"a": 1e999}}': {"#/email", "#/password", "#/profile"},
    '{"email": "a@", "password": "7 chars", "profile": %s}' % ('{"a":' * 32 + "{}" + "}" * 32): {
        "#/email", "#/password", "#/profile",
    },
    '{"email": "a@", "password": "7 chars", "is_active": true, "hashed_password": "$argon2id$"}': {
        "#/email", "#/password", "#/is_active", "#/hashed_password",
    },
}  # fmt: skip


def test_register_names_every_failing_field(client: httpx.Client, users: Users) -> None:
    for body, expected in UNFIT.items():
        response = client.post("/users", content=body, headers={"Content-Type": "application/json"})
        assert pointers(problem(response, 422)) == expected, body
    assert len(client.get("/users").json()["users"]) == len(users)


@pytest.mark.parametrize("password", ["8 chars!", "é" * 512])
def test_register_takes_the_shortest_and_the_longest_password(client: httpx.Client, password: str) -> None:
    assert client.post("/users", json={**NEW, "password": password}).status_code == 201


def test_a_body_that_is_cut_or_no_json_is_answered_400(client: httpx.Client, users: Users) -> None:
    whole = b'{"email": "no address", "password": "short", "profile": {"a": [1, "\xc3\xa9"]}}'
    broken = [whole[:end] for end in range(len(whole))]
    broken += [whole + b" x", b"\xff", b'{"email": 1, "x": "\xff"}', b'{"email": 1, "x": "\\ud800"}']
    broken += [b'{"email": 1,}', b'{"email": 1, "profile": ' + b"[" * 5000, b"[1, 2", b"1 2"]
    for body in broken:
        request = {"content": body, "headers": {"Content-Type": "application/json"}}
        assert problem(client.post("/users", **request), 400), body
        assert problem(client.patch(f"/users/{users[0]['id']}", **request), 400), body


def test_register_answers_422_for_a_referrer_that_is_not_there(client: httpx.Client, users: Users) -> None:
    for nobody in (users[-1]["id"] + 1000, 2**63 - 1):
        document = problem(client.post("/users", json={**NEW, "referred_by": nobody}), 422)
        assert pointers(document) == {"#/referred_by"}


def test_deleting_a_referrer_leaves_the_referred_without_one(
    client: httpx.Client, users: Users, sql: Sql
) -> None:
    ada, bob, cyd = (user["id"] for user in users)
    by_ada, by_bob = (
        client.post("/users", json={**NEW, "email": f"by{id_}@example.com", "referred_by": id_}).json()["id"]
        for id_ in (ada, bob)
    )
    assert client.delete(f"/users/{ada}").status_code == 204
    assert sql("select id, referred_by from users order by id") == [
        (bob, None), (cyd, None), (by_ada, None), (by_bob, bob),
    ]  # fmt: skip


def test_no_response_holds_a_password_or_a_hash(client: httpx.Client, users: Users) -> None:
    path, password = f"/users/{users[0]['id']}", NEW["password"]
    answers = [
        client.post("/users", json=NEW),
        client.post("/users", json=NEW),
        client.post("/users", json={**NEW, "email": password}),
        client.post("/users", json={**NEW, "email": "e@example.com", "referred_by": 10**6}),
        client.post("/users", json={**NEW, "password": [password]}),
        client.patch(path, json={"password": password}),
        client.patch(path, json={"display_name": "A"}),
        client.get(path),
        client.get(f"{path}?fields=hashed_password"),
        client.get("/users?fields=id,email,display_name,is_active,created_at,profile"),
        client.get("/users"),
        client.delete(path),
    ]
    assert [answer.status_code for answer in answers] == [
        201, 409, 422, 422, 422, 422, 200, 200, 422, 200, 200, 204,
    ]  # fmt: skip
    for answer in answers:
        said = f"{answer.headers} {answer.text}"
        assert not [secret for secret in (password, "argon2", "hashed") if secret in said], said


def test_if_none_match_answers_304_for_a_version_the_client_has(client: httpx.Client, users: Users) -> None:
    url = f"/users/{users[1]['id']}"
    patch(client, users[1], {"display_name": "Bo"})
    tag = client.get(url).headers["etag"]
    assert tag != client.get(f"/users/{users[0]['id']}").headers["etag"]
    for known in (tag, f"W/{tag}", "*", f'"x", {tag}', f'W/"x" ,W/{tag}', f'"a,b",{tag}, "y"'):
        response = client.get(url, headers={"If-None-Match": known})
        assert (response.status_code, response.content) == (304, b""), known
        assert response.headers["etag"] == tag
        assert client.head(url, headers={"If-None-Match": known}).status_code == 304
    assert client.get(url, headers=[("If-None-Match", '"x"'), ("If-None-Match", tag)]).status_code == 304
    for other in ('"1"', '"22"', '""', "2", "", '"x", "y"', 'W/"1"', '"*"'):
        assert client.get(url, headers={"If-None-Match": other}).json()["display_name"] == "Bo", other


STALE = ('"1"', 'W/"2"', '"1", W/"2"', '"x"', "2", '"02"', '"2', '""', "", '"*"', 'w/"2"', 'x"2"', '"9" * 99')
CURRENT = ('"2"', "*", '"1", "2"', 'W/"2", "2"', '"a,b" ,"2"')


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_if_match_lets_only_the_current_version_change(
    client: httpx.Client, users: Users, method: str
) -> None:
    assert patch(client, users[0], {"display_name": "A"}).headers["etag"] == '"2"'
    before = read(client, users)
    url, change = f"/users/{users[0]['id']}", {"json": {"is_active": False}} if method == "PATCH" else {}
    for tag in STALE:
        assert problem(client.request(method, url, headers={"If-Match": tag}, **change), 412), tag
    assert read(client, users) == before


@pytest.mark.parametrize("lines", [*((tag,) for tag in CURRENT), ('"1"', '"2"')])
def test_if_match_lets_the_current_version_pass(
    client: httpx.Client, users: Users, lines: tuple[str, ...]
) -> None:
    ada, bob, cyd = users
    assert patch(client, ada, {"display_name": "A"}).headers["etag"] == '"2"'
    assert patch(client, bob, {"display_name": "B"}).headers["etag"] == '"2"'
    headers = [("If-Match", line) for line in lines]
    assert client.patch(f"/users/{ada['id']}", json={}, headers=headers).status_code == 200
    assert client.delete(f"/users/{bob['id']}", headers=headers).status_code == 204
    assert [user["id"] for user in client.get("/users").json()["users"]] == [ada["id"], cyd["id"]]


def test_of_many_patches_of_one_version_exactly_one_wins(client: httpx.Client, users: Users) -> None:
    def change(name: str) -> int:
        return patch(client, users[0], {"display_name": name}, **{"If-Match": '"1"'}).status_code

    names = "abcdefgh"
    with ThreadPoolExecutor(8) as threads:
        statuses = dict(zip(names, threads.map(change, names), strict=True))
    assert sorted(statuses.values()) == [200] + [412] * 7
    assert statuses[client.get(f"/users/{users[0]['id']}").json()["display_name"]] == 200


def test_patches_of_different_keys_at_once_all_stay(client: httpx.Client, users: Users) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda key: patch(client, users[0], {"profile": {key: 1}}), "abcdefgh"))
    assert [user["profile"] for user in read(client, users)] == [dict.fromkeys("abcdefgh", 1), {}, {}]
    assert client.get(f"/users/{users[0]['id']}").headers["etag"] == '"9"'


def test_a_user_that_is_not_there_is_answered_404(client: httpx.Client, users: Users) -> None:
    client.delete(f"/users/{users[1]['id']}").raise_for_status()
    gone = [
        users[1]["id"],
        users[-1]["id"] + 1,
        2**63 - 1,
        2**63,
        "9" * 5000,
        0,
        "-1",
        "01",
        "x",
        "1.0",
        "%0A1",
    ]
    for id_ in gone:
        for headers in ({}, {"If-Match": "*"}, {"If-Match": '"1"'}, {"If-None-Match": "*"}):
            problem(client.get(f"/users/{id_}", headers=headers), 404)
            problem(client.patch(f"/users/{id_}", json={}, headers=headers), 404)
            problem(client.delete(f"/users/{id_}", headers=headers), 404)
        assert client.head(f"/users/{id_}").status_code == 404
    assert [user["id"] for user in client.get("/users").json()["users"]] == [users[0]["id"], users[2]["id"]]


PATCHES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"display_name": None}, {"display_name": None}),
    ({"is_active": False, "email": " New <NEW@example.com>"}, {"is_active": False, "email": "new@example.com"}),
    ({"display_name": "Née"}, {"display_name": "Née"}),
    ({"profile": {}}, {}),
    ({"profile": {"a": {"b": 1, "c": 2}, "d": [1, 2], "n": None}}, {"profile": {"a": {"b": 1, "c": 2}, "d": [1, 2]}}),
    ({"profile": {"a": {"c": 3}}}, {"profile": {"a": {"b": 1, "c": 3}, "d": [1, 2]}}),
    ({"profile": {"d": [{"e": None}]}}, {"profile": {"a": {"b": 1, "c": 3}, "d": [{"e": None}]}}),
    ({"profile": {"a": {"b": None}, "d": {"f": {"g": None}}}}, {"profile": {"a": {"c": 3}, "d": {"f": {}}}}),
    ({"profile": {"a": None, "d": "text", "never": None}}, {"profile": {"d": "text"}}),
    ({"is_active": True, "profile": {"d": None}}, {"is_active": True, "profile": {}}),
]  # fmt: skip


def test_patch_merges_what_is_given_and_leaves_the_rest(client: httpx.Client, users: Users) -> None:
    expected = read(client, users)
    for version, (change, effect) in enumerate(PATCHES, 2):
        response = patch(client, users[1], change)
        expected[1] |= effect
        assert response.json() == {key: expected[1][key] for key in PUBLIC}, change
        assert response.headers["etag"] == f'"{version}"'
        assert read(client, users) == expected, change


BAD_PATCHES: dict[str, set[str]] = {
    '{"email": null, "is_active": null, "profile": null}': {"#/email", "#/is_active", "#/profile"},
    '{"email": "x", "is_active": 1, "profile": [], "display_name": ""}': {
        "#/email", "#/is_active", "#/profile", "#/display_name",
    },
    '{"id": 9, "created_at": "2026-01-01T00:00:00Z", "password": "a new one", "display_name": "Z"}': {
        "#/id", "#/created_at", "#/password",
    },
    '{"referred_by": null, "version": 1, "display_name": "\\u0000"}': {
        "#/referred_by", "#/version", "#/display_name",
    },
    "[]": {"#"},
    "null": {"#"},
}  # fmt: skip


def test_patch_names_every_failing_field_and_changes_nothing(client: httpx.Client, users: Users) -> None:
    for body, expected in BAD_PATCHES.items():
        headers = {"Content-Type": "application/merge-patch+json"}
        response = client.patch(f"/users/{users[0]['id']}", content=body, headers=headers)
        assert pointers(problem(response, 422)) == expected, body
    assert client.get("/users").json()["users"] == users


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merge(target.get(name), value)
    return target


KEYS = st.sampled_from(["a", "b", "", "é", "a.b"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(st.characters(exclude_characters="\0"), max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(target=OBJECTS, change=OBJECTS)
def test_the_database_merges_as_rfc_7396_does(sql: Sql, target: object, change: object) -> None:
    statement = "select jsonb_merge_patch(%s::text::jsonb, %s::text::jsonb)"
    ((merged,),) = sql(statement, json.dumps(target), json.dumps(change))
    # As text, since True == 1 in Python.
    assert json.dumps(merged, sort_keys=True) == json.dumps(merge(target, change), sort_keys=True)


def test_fields_chooses_out_of_a_closed_set(client: httpx.Client, users: Users) -> None:
    url = f"/users/{users[1]['id']}"
    patch(client, users[1], {"profile": {"a": 1}})
    full = {**users[1], "profile": {"a": 1}}
    for fields in ("id", "email,id", "profile", "display_name,profile,is_active", "id,id", ",".join(full)):
        response = client.get(f"{url}?fields={fields}")
        assert response.json() == {name: full[name] for name in fields.split(",")}
        assert response.headers["etag"] == '"2"'
    for query in ("fields=", "fields=id,", "fields=hashed_password", "fields=id,version", "fields=id, email"):
        assert pointers(problem(client.get(f"{url}?{query}"), 422)) == {"?fields"}, query
    assert pointers(problem(client.get(f"{url}?fields=x&field=id&x=1"), 422)) == {"?fields", "?field", "?x"}
    assert pointers(problem(client.get(f"{url}?fields=id&fields=id"), 422)) == {"?fields"}


@pytest.mark.parametrize("path", ["/users/2", "/users/2?fields=id", "/users", "/users?limit=2", "/users/99"])
def test_head_answers_what_get_does_less_the_body(client: httpx.Client, users: Users, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    ignored = {"date", "x-request-id"} | ({"content-length"} if got.is_error else set())
    assert {k: v for k, v in head.headers.items() if k not in ignored} == {
        k: v for k, v in got.headers.items() if k not in ignored
    }


@pytest.mark.parametrize("right", ["application/json", "Application/JSON; charset=utf-8"])
def test_bodies_come_in_the_media_types_that_are_announced(
    client: httpx.Client, users: Users, right: str
) -> None:
    url, body = f"/users/{users[0]['id']}", json.dumps(NEW)
    assert client.post("/users", content=body, headers={"Content-Type": right}).status_code == 201
    for type_ in (right, right.replace("/", "/merge-patch+")):
        assert client.patch(url, content="{}", headers={"Content-Type": type_}).status_code == 200
    for wrong in ("text/plain", "application/jsonp", "application/x-www-form-urlencoded", "json", ""):
        refused = client.patch(url, content="{}", headers={"Content-Type": wrong})
        problem(refused, 415)
        assert "application/merge-patch+json" in refused.headers["accept-patch"].split(", ")
        refused = client.post("/users", content=body, headers={"Content-Type": wrong})
        problem(refused, 415)
        assert "application/json" in refused.headers["accept-post"].split(", ")
    merge_patch = {"Content-Type": "application/merge-patch+json"}
    problem(client.post("/users", content=body, headers=merge_patch), 415)


REQUESTS = {
    "users:read": [("GET", "/users"), ("GET", "/users/1"), ("HEAD", "/users/1"), ("GET", "/users/99")],
    "users:write": [("POST", "/users"), ("PATCH", "/users/1"), ("DELETE", "/users/1"), ("DELETE", "/users/x")],
}  # fmt: skip


@pytest.mark.parametrize(("held", "lacked"), [("users:read", "users:write"), ("users:write", "users:read")])
def test_a_key_opens_what_its_scope_says_and_no_more(
    service: Service, users: Users, held: str, lacked: str
) -> None:
    with service.client(make_key(service.config, held)) as client:
        for method, path in REQUESTS[lacked]:
            refused = client.request(method, path)
            assert refused.status_code == 403
            challenge = refused.headers["www-authenticate"]
            assert challenge.startswith("Bearer ")
            assert 'error="insufficient_scope"' in challenge
            assert f'scope="{lacked}"' in challenge
        assert not {client.request(*request).status_code for request in REQUESTS[held]} & {401, 403}


def test_no_key_or_a_bad_one_is_answered_401(service: Service, users: Users, sql: Sql) -> None:
    revoked, expired = make_key(service.config), make_key(service.config)
    sql("update api_keys set revoked_at = now() where id = (select max(id) - 1 from api_keys)")
    sql("update api_keys set expires_at = now() where id = (select max(id) from api_keys)")
    bad = ["Bearer bl_unknown", "bearer x y", f"Bearer {revoked}", f"Bearer {expired}"]
    with service.client() as client:
        for method, path in REQUESTS["users:read"] + REQUESTS["users:write"]:
            for header in (None, "", "Bearer", f"Basic {expired}", *bad):
                headers = {} if header is None else {"Authorization": header}
                refused = client.request(method, path, headers=headers)
                assert refused.status_code == 401, header
                challenge = refused.headers["www-authenticate"]
                assert challenge.startswith("Bearer ")
                assert ('error="invalid_token"' in challenge) == (header in bad)
    assert sql("select count(*) from users where version = 1") == [(3,)]


def test_open_registration_opens_registration_alone(config: Config, users: Users, sql: Sql) -> None:
    with Service(with_settings(config, open_registration=True)) as service, service.client() as client:
        assert client.post("/users", json=NEW).status_code == 201
        bad_key = {"Authorization": "Bearer bl_unknown"}
        assert client.post("/users", json={**NEW, "email": "e@e.de"}, headers=bad_key).status_code == 201
        problem(client.post("/users", json=NEW), 409)
        others = REQUESTS["users:read"] + REQUESTS["users:write"][1:]
        assert {client.request(*other).status_code for other in others} == {401}
    assert sql("select count(*) from users") == [(5,)]
