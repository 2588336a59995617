"""Users over real HTTP: what the routes of a single user answer."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import argon2
import pytest
from httpx import Client, Response
from hypothesis import given, settings
from hypothesis import strategies as st

from svc.config import Config
from tests.support import Service, make_key, pointers, problem, with_settings

Sql = Callable[..., list[tuple[Any, ...]]]
Object = dict[str, Any]

PUBLIC = {"id", "email", "display_name", "is_active", "created_at"}
NEW = {"email": "dan@example.com", "password": "tr0ub4dor&3"}
JSON = {"Content-Type": "application/json"}


def patch(client: Client, user: Object, change: object, **headers: str) -> Response:
    """A merge patch of a user."""
    headers["Content-Type"] = "application/merge-patch+json"
    return client.patch(f"/users/{user['id']}", json=change, headers=headers)


def read(client: Client) -> list[Object]:
    """All users as they are now, profiles included."""
    return client.get("/users", params={"fields": ",".join([*PUBLIC, "profile"])}).json()["users"]


def test_a_user_that_was_registered_is_read_back(client: Client, users: list[Object]) -> None:
    assert [user["email"] for user in users] == ["ada@example.com", "bob@example.com", "cyd@example.com"]
    assert [client.get(f"/users/{user['id']}").json() for user in users] == users


def test_register_answers_201_and_where_the_user_is(client: Client, users: list[Object], sql: Sql) -> None:
    response = client.post("/users", json={**NEW, "email": "Dan <DAN@Example.com>"})
    user = response.json()
    fresh = {"email": "dan@example.com", "display_name": None, "is_active": True}
    assert user == {"id": user["id"], **fresh, "created_at": user["created_at"]}
    found = client.get(response.headers["location"])
    assert (response.status_code, response.headers["etag"]) == (201, found.headers["etag"])
    assert found.json() == user
    optional = {"display_name": "Eve", "profile": {"a": [1, None, {"é": 2.5}]}}
    eve = {"email": "eve@example.com", "password": "é" * 512, "referred_by": users[1]["id"], **optional}
    location = client.post("/users", json=eve).headers["location"]
    assert client.get(f"{location}?fields=display_name,profile").json() == optional
    ((hashed, referrer),) = sql("select hashed_password, referred_by from users where email like 'eve%'")
    assert (argon2.PasswordHasher().verify(hashed, eve["password"]), referrer) == (True, users[1]["id"])


def test_register_answers_409_for_a_taken_email(client: Client, users: list[Object]) -> None:
    taken = [{"pointer": "#/email", "detail": "A user with this email exists"}]
    for email in ("ADA@Example.COM", " ada@example.com ", "Ada L <ada@EXAMPLE.com>", '"L" <Ada@example.com>'):
        assert problem(client.post("/users", json={**NEW, "email": email}), 409)["errors"] == taken
        assert problem(patch(client, users[1], {"email": email}), 409)["errors"] == taken
        assert patch(client, users[0], {"email": email}).json() == users[0]
    assert client.get("/users").json()["users"] == users


BAD_BODIES: list[Object] = [
    {"display_name": "", "profile": [], "referred_by": 0, "is_active": True},
    {"display_name": 1, "referred_by": "1", "hashed_password": "$argon2id$", "": 1},
    {"email": None, "password": None, "profile": json.loads('{"a":' * 33 + "1" + "}" * 33)},
    {"email": "a@b.de\n", "password": "é" * 513, "display_name": "n" * 201, "referred_by": 2**63},
    {"email": 1, "password": "\0 is zero", "display_name": "\0", "profile": {"\0": 1}, "referred_by": 1.5},
]
BAD_PATCHES: list[Object] = [
    {"email": None, "is_active": None, "profile": None, "id": 9, "created_at": None, "version": 1},
    {"email": "x", "is_active": 1, "profile": [], "display_name": "", "password": "a new one"},
]


def test_all_failing_fields_are_named_and_nothing_is_done(client: Client, users: list[Object]) -> None:
    for bad in BAD_BODIES:
        body = {"email": "a@", "password": "7 chars", **bad}
        assert pointers(problem(client.post("/users", json=body), 422)) == {f"#/{name}" for name in body}
    assert pointers(problem(client.post("/users", json={}), 422)) == {"#/email", "#/password"}
    assert pointers(problem(client.post("/users", json=[NEW]), 422)) == {"#"}
    for change in BAD_PATCHES:
        assert pointers(problem(patch(client, users[0], change), 422)) == {f"#/{name}" for name in change}
    assert pointers(problem(patch(client, users[0], {"display_name": "Z", "a/b~": 1}), 422)) == {"#/a~1b~0"}
    assert client.get("/users").json()["users"] == users
    refused = client.patch("/users/1", content='{"email": "a@", "profile": {"a": 1e999}}', headers=JSON)
    assert pointers(problem(refused, 422)) == {"#/email", "#/profile"}


def test_a_body_that_is_cut_or_no_json_is_answered_400(client: Client, users: list[Object]) -> None:
    whole = b'{"email": "no address", "password": "short", "profile": {"a": [1, "\xc3\xa9"]}}'
    broken = [whole[:end] for end in range(len(whole))]
    broken += [whole + b" x", b"\xff", b'{"email": 1, "x": "\xff"}', b'{"email": 1, "x": "\\ud800"}']
    broken += [b'{"email": 1,}', b'{"email": 1, "profile": ' + b"[" * 5000, b"[1, 2", b"1 2"]
    for body in broken:
        problem(client.post("/users", content=body, headers=JSON), 400)
        problem(client.patch(f"/users/{users[0]['id']}", content=body, headers=JSON), 400)


def test_a_referrer_must_exist_and_may_go(client: Client, users: list[Object], sql: Sql) -> None:
    ada, bob, cyd = (user["id"] for user in users)
    for nobody in (cyd + 1, 2**63 - 1):  # the first would be the new user itself
        refused = client.post("/users", json={**NEW, "referred_by": nobody})
        assert pointers(problem(refused, 422)) == {"#/referred_by"}
    bodies = [{**NEW, "email": f"by{id_}@example.com", "referred_by": id_} for id_ in (ada, bob)]
    by_ada, by_bob = (client.post("/users", json=body).json()["id"] for body in bodies)
    assert client.delete(f"/users/{ada}").status_code == 204
    found = dict(sql("select id, referred_by from users"))
    assert found == {bob: None, cyd: None, by_ada: None, by_bob: bob}


def test_no_response_holds_a_password_or_a_hash(client: Client, users: list[Object]) -> None:
    path, secret = f"/users/{users[0]['id']}", NEW["password"]
    bodies = [NEW, NEW, {**NEW, "email": secret}, {**NEW, "password": [secret]}, {**NEW, "referred_by": 99}]
    answers = [client.post("/users", json=body) for body in bodies]
    answers += [patch(client, users[0], change) for change in ({"password": secret}, {"display_name": "A"})]
    answers += [client.get(url + query) for url in (path, "/users") for query in ("", "?fields=profile,id")]
    answers.append(client.get("/users?fields=hashed_password"))
    assert [answer.status_code // 100 for answer in answers] == [2, *[4] * 5, *[2] * 5, 4]
    said = "\n".join(f"{answer.headers} {answer.text}" for answer in answers)
    assert not [word for word in (secret, "argon2", "hashed") if word in said]


def test_if_none_match_answers_304_for_a_known_version(client: Client, users: list[Object]) -> None:
    url = f"/users/{users[1]['id']}"
    assert patch(client, users[1], {"display_name": "Bo"}).headers["etag"] == '"2"'
    for other in ('"1"', '"22"', '""', "2", "", '"x", "y"', 'W/"1"', '"*"'):
        assert client.get(url, headers={"If-None-Match": other}).json()["display_name"] == "Bo", other
    for known in ('"2"', 'W/"2"', "*", '"x", "2"', 'W/"x" ,W/"2"', '"a,b","2", "y"'):
        response = client.get(url, headers={"If-None-Match": known})
        assert (response.status_code, response.headers["etag"], response.content) == (304, '"2"', b""), known
        assert client.head(url, headers={"If-None-Match": known}).status_code == 304
    one_list = [("If-None-Match", '"x"'), ("If-None-Match", '"2"')]  # RFC 9110, 5.3
    assert client.get(url, headers=one_list).status_code == 304


def test_if_match_stops_a_change_of_another_version(client: Client, users: list[Object]) -> None:
    assert patch(client, users[0], {"display_name": "A"}).headers["etag"] == '"2"'
    before, url = read(client), f"/users/{users[0]['id']}"
    stale = ['"1"', 'W/"2"', '"1", W/"2"', '"x"', '"02"', '"22"', f'"{2**63}"', f'"{"2" * 5000}"']
    garbage = ["2", '"2', '""', "", '"*"', 'w/"2"', 'x"2"']
    for headers in ({"If-Match": tag} for tag in stale + garbage):
        assert problem(client.patch(url, json={"is_active": False}, headers=headers), 412), headers
        assert problem(client.delete(url, headers=headers), 412), headers
        assert read(client) == before


def test_if_match_lets_the_current_version_change(client: Client, users: list[Object], sql: Sql) -> None:
    one_list = [("If-Match", '"1"'), ("If-Match", '"7"')]  # RFC 9110, 5.3
    current = [[("If-Match", tag)] for tag in ('"7"', "*", '"1", "7"', 'W/"7", "7"', '"a,b" ,"7"')]
    for headers in ([], *current, one_list):
        user = client.post("/users", json=NEW).json()
        sql("update users set version = 7 where id = %s", user["id"])
        changed = client.patch(f"/users/{user['id']}", json={"display_name": "D"}, headers=headers)
        assert changed.json() == {**user, "display_name": "D"}, headers
        sql("update users set version = 7 where id = %s", user["id"])
        assert client.delete(f"/users/{user['id']}", headers=headers).status_code == 204
        assert client.get("/users").json()["users"] == users


def test_of_many_patches_of_one_version_exactly_one_wins(client: Client, users: list[Object]) -> None:
    first = {"If-Match": '"1"'}
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda n: patch(client, users[0], {"display_name": n}, **first), "abcdefgh")
    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [200] + [412] * 7
    assert read(client)[0]["display_name"] == "abcdefgh"[statuses.index(200)]


def test_patches_of_different_keys_at_once_all_stay(client: Client, users: list[Object]) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda key: patch(client, users[0], {"profile": {key: 1}}), "abcdefgh")
    assert {answer.headers["etag"] for answer in answers} == {f'"{version}"' for version in range(2, 10)}
    assert [user["profile"] for user in read(client)] == [dict.fromkeys("abcdefgh", 1), {}, {}]


def test_a_user_that_is_not_there_is_answered_404(client: Client, users: list[Object]) -> None:
    ada, bob, cyd = users
    client.delete(f"/users/{bob['id']}")
    never = [cyd["id"] + 1, 2**63 - 1, 2**63, "9" * 5000, 0, "-1", "01", "x", "1.0", "%0A1", "1%00", "%C2%B9"]
    for url in (f"/users/{id_}" for id_ in (bob["id"], *never)):
        for headers in ({}, {"If-Match": "*"}, {"If-Match": '"1"'}, {"If-None-Match": "*"}):
            problem(client.get(url, headers=headers), 404)
            problem(client.patch(url, json={}, headers=headers), 404)
            problem(client.delete(url, headers=headers), 404)
            assert client.head(url, headers=headers).status_code == 404
    assert client.get("/users").json()["users"] == [ada, cyd]


EFFECTS: list[tuple[Object, Object]] = [
    ({}, {}),
    ({"display_name": None, "is_active": False}, {"display_name": None, "is_active": False}),
    ({"email": " N <NEW@a.de>"}, {"email": "new@a.de"}),
    ({"profile": {"a": {"b": 1, "c": 2}, "d": [1]}}, {"profile": {"a": {"b": 1, "c": 2}, "d": [1]}}),
    ({"profile": {"a": {"c": 3}}}, {"profile": {"a": {"b": 1, "c": 3}, "d": [1]}}),
    ({"profile": {"d": [{"e": None}]}}, {"profile": {"a": {"b": 1, "c": 3}, "d": [{"e": None}]}}),
    ({"profile": {"a": {"b": None}, "d": {"f": {"g": None}}}}, {"profile": {"a": {"c": 3}, "d": {"f": {}}}}),
    ({"profile": {"a": None, "never": None}}, {"profile": {"d": {"f": {}}}}),
]


def test_patch_merges_what_is_given_and_leaves_the_rest(client: Client, users: list[Object]) -> None:
    expected = read(client)
    for version, (change, effect) in enumerate(EFFECTS, 1):
        response = patch(client, users[1], change)
        expected[1] |= effect
        if change:
            assert response.json() == {key: expected[1][key] for key in PUBLIC}, change
        else:
            assert (response.status_code, response.content) == (204, b"")
        assert response.headers["etag"] == f'"{version}"'
        assert read(client) == expected, change


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    base = target if isinstance(target, dict) else {}
    kept = {name: value for name, value in base.items() if name not in patch}
    return kept | {name: merge(base.get(name), v) for name, v in patch.items() if v is not None}


KEYS = st.sampled_from(["a", "b", "", "é", "a.b"])
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "null"])
VALUES = st.recursive(LEAVES, lambda parts: st.lists(parts, max_size=3) | st.dictionaries(KEYS, parts))


@settings(max_examples=100)
@given(target=st.dictionaries(KEYS, VALUES), change=st.dictionaries(KEYS, VALUES))
def test_the_database_merges_as_rfc_7396_does(sql: Sql, target: object, change: object) -> None:
    statement = "select jsonb_merge_patch(%s::text::jsonb, %s::text::jsonb)"
    ((merged,),) = sql(statement, json.dumps(target), json.dumps(change))
    assert json.dumps(merged, sort_keys=True) == json.dumps(
        merge(target, change), sort_keys=True
    )  # True == 1


def test_fields_chooses_out_of_a_closed_set(client: Client, users: list[Object]) -> None:
    patch(client, users[1], {"profile": {"a": 1}})
    url, full = f"/users/{users[1]['id']}?fields=", {**users[1], "profile": {"a": 1}}
    for fields in ("id", "email,id", "profile", "display_name,profile,is_active", "id,id", ",".join(full)):
        assert client.get(url + fields).json() == {name: full[name] for name in fields.split(",")}
    for fields in ("", "id,", "hashed_password", "id,version", "id, email", "id&fields=id"):
        assert pointers(problem(client.get(url + fields), 422)) == {"?fields"}, fields


def test_head_answers_what_get_does_less_the_body(client: Client, users: list[Object]) -> None:
    for path in ("/users/2", "/users/2?fields=id", "/users", "/users?limit=2"):
        got, head = (client.request(method, path).raise_for_status() for method in ("GET", "HEAD"))
        assert (head.content, bool(got.content)) == (b"", True)
        assert {**head.headers, "date": 0, "x-request-id": 0} == {**got.headers, "date": 0, "x-request-id": 0}


def test_a_body_of_another_media_type_is_answered_415(client: Client, users: list[Object]) -> None:
    for type_ in ("application/merge-patch+json", "application/json", "Application/JSON; charset=utf-8"):
        client.patch("/users/1", content="{}", headers={"Content-Type": type_}).raise_for_status()
    for type_ in ("text/plain", "application/jsonp", "application/json-patch+json", "json", ""):
        for method, url, right in (("PATCH", "/users/1", "merge-patch+json"), ("POST", "/users", "json")):
            refused = client.request(method, url, content=json.dumps(NEW), headers={"Content-Type": type_})
            assert problem(refused, 415)
            assert f"application/{right}" in refused.headers[f"accept-{method.lower()}"].split(", ")
    problem(client.post("/users", json=NEW, headers={"Content-Type": "application/merge-patch+json"}), 415)


READS = [("GET", "/users"), ("GET", "/users/1"), ("HEAD", "/users/1"), ("GET", "/users/99")]
WRITES = [("POST", "/users"), ("PATCH", "/users/1"), ("DELETE", "/users/1"), ("DELETE", "/users/x")]


def test_a_key_opens_what_its_scope_says(service: Service, users: list[Object]) -> None:
    for held, opened, lacked, closed in (
        ("users:read", READS, "users:write", WRITES),
        ("users:write", WRITES, "users:read", READS),
    ):
        challenge = f'Bearer realm="bareline", error="insufficient_scope", scope="{lacked}"'
        with service.client(make_key(service.config, held)) as client:
            for refused in (client.request(*request) for request in closed):
                assert (refused.status_code, refused.headers["www-authenticate"]) == (403, challenge)
            assert not {client.request(*request).status_code for request in opened} & {401, 403}


def test_no_key_or_a_bad_one_is_answered_401(service: Service, users: list[Object]) -> None:
    bad = ["Bearer bl_unknown", "bearer x y"]
    with service.client() as client:
        for header in ("", "Bearer", "Basic YTpi", *bad):
            client.headers["Authorization"] = header
            for refused in (client.request(*request) for request in READS + WRITES):
                assert refused.status_code == 401, header
                challenge = 'Bearer realm="bareline"' + ', error="invalid_token"' * (header in bad)
                assert refused.headers["www-authenticate"] == challenge


def test_open_registration_opens_registration_alone(config: Config, users: list[Object]) -> None:
    with Service(with_settings(config, open_registration=True)) as service, service.client() as client:
        assert client.post("/users", json=NEW).status_code == 201
        client.headers["Authorization"] = "Bearer bl_unknown"
        problem(client.post("/users", json={**NEW, "email": "e@e.de"}), 401)
        assert {client.request(*other).status_code for other in READS + WRITES[1:]} == {401}


def test_a_key_that_may_write_alone_reads_nobody_by_an_empty_change(
    config: Config, service: Service, users: list[Object]
) -> None:
    path = f"/users/{users[1]['id']}"
    with service.client(make_key(config, "users:write")) as writer:
        answer = writer.patch(path, json={})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (204, b"", '"1"')
        problem(writer.patch(path, json={}, headers={"If-Match": '"2"'}), 412)
        problem(writer.patch("/users/99", json={}), 404)
        changed = writer.patch(path, json={"is_active": True}).raise_for_status()
        assert changed.headers["etag"] == '"2"'  # it is written, and that shows


def test_who_registers_without_a_key_learns_of_nobody(config: Config, users: list[Object]) -> None:
    with Service(with_settings(config, open_registration=True)) as service, service.client() as client:
        answers = [
            problem(client.post("/users", json={**NEW, "email": email, "referred_by": id_}), 422)
            for email in (NEW["email"], users[0]["email"])
            for id_ in (users[0]["id"], 10**6)
        ]
        assert {str(answer["errors"]) for answer in answers} == {
            str([{"pointer": "#/referred_by", "detail": "Expected none, without a key"}])
        }
        key = make_key(config, "users:write")
        headers = {"Authorization": f"Bearer {key}"}
        client.post("/users", json={**NEW, "referred_by": users[0]["id"]}, headers=headers).raise_for_status()
        reader = {"Authorization": f"Bearer {make_key(config, 'users:read')}"}
        problem(client.post("/users", json={**NEW, "email": "e@e.de"}, headers=reader), 403)


def test_retries_of_those_without_a_key_are_apart(config: Config) -> None:
    with Service(with_settings(config, open_registration=True)) as service, service.client() as client:
        made = [
            client.post("/users", json={**NEW, "email": f"{name}@e.de"}, headers={"Idempotency-Key": "1"})
            for name in ("a", "b", "a")
        ]
        assert [answer.status_code for answer in made] == [201] * 3
        ids = [answer.json()["id"] for answer in made]
        assert ids[0] == ids[2] != ids[1]


def test_who_is_deleted_is_forgotten_by_retries_as_well(client: Client, sql: Sql) -> None:
    first, other = (
        client.post("/users", json={**NEW, "email": email}, headers={"Idempotency-Key": email})
        .raise_for_status()
        .json()
        for email in ("a@e.de", "b@e.de")
    )
    problem(client.delete(f"/users/{first['id']}", headers={"If-Match": '"9"'}), 412)
    assert len(sql("select email from idempotency_keys")) == 2
    assert client.delete(f"/users/{first['id']}").status_code == 204
    assert sql("select email from idempotency_keys") == [("b@e.de",)]
    again = client.post("/users", json={**NEW, "email": "a@e.de"}, headers={"Idempotency-Key": "a@e.de"})
    assert again.raise_for_status().json()["id"] not in (first["id"], other["id"])


def test_an_answer_is_given_again_for_a_day_and_no_longer(client: Client, sql: Sql) -> None:
    headers = {"Idempotency-Key": "1"}
    first = client.post("/users", json=NEW, headers=headers).raise_for_status().json()
    assert client.post("/users", json=NEW, headers=headers).json() == first
    sql("update idempotency_keys set created_at = now() - interval '25 hours'")
    problem(client.post("/users", json=NEW, headers=headers), 409)  # as of any other
    other = client.post("/users", json={**NEW, "email": "o@e.de"}, headers=headers)
    assert other.raise_for_status().json()["id"] != first["id"]


def test_what_caches_may_do_is_said(client: Client, users: list[Object]) -> None:
    path = f"/users/{users[0]['id']}"
    heads = [client.get(path).headers for _ in range(2)]
    heads.append(client.patch(path, json={"is_active": True}).headers)
    assert {head["cache-control"] for head in heads} == {"private, no-cache"}
    others = [client.get("/users"), client.post("/users/lookup", json={"ids": [1]}), client.get("/users/99")]
    assert {answer.headers["cache-control"] for answer in others} == {"no-store"}
    assert {answer.headers["x-content-type-options"] for answer in others} == {"nosniff"}
    unchanged = client.get(path, headers={"If-None-Match": heads[-1]["etag"]})
    assert (unchanged.status_code, unchanged.headers["cache-control"]) == (304, "private, no-cache")


@pytest.mark.parametrize("odd", [0, 7, 10, 27, 31, 127, 128, 159, 0x202A, 0x202E, 0x2066, 0x2069])
def test_names_have_no_control_characters(client: Client, users: list[Object], odd: int) -> None:
    body = {"display_name": f"a{chr(odd)}b"}
    assert pointers(problem(client.patch(f"/users/{users[0]['id']}", json=body), 422)) == {"#/display_name"}


@pytest.mark.parametrize("name", ["a\u200db", "\u200eא", "עברית", "e\u0301", "👩\u200d🚀", "\u2028"])
def test_names_have_joiners_and_plain_direction_marks(client: Client, users: list[Object], name: str) -> None:
    answer = client.patch(f"/users/{users[0]['id']}", json={"display_name": name}).raise_for_status()
    assert answer.json()["display_name"] == name


def test_two_idempotency_keys_are_refused_and_quotes_are_no_part_of_one(
    client: Client,
) -> None:
    body = {"email": "ada@example.com", "password": "correct horse"}
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    problem(client.post("/users", json=body, headers=twice), 400)
    made = [
        client.post("/users", json=body, headers={"Idempotency-Key": key}).raise_for_status().json()
        for key in ("a", '"a"')
    ]
    assert made[0] == made[1]
