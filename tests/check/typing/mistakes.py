"""Ten deliberate mistakes with typed queries: mypy and pyright, both strict, must find these and no others.

Not run and not imported; tests/check/test_typing.py has it checked.
"""

from svc.accounts.keys import ApiKey, ApiKeyQueries
from svc.users.structs import ListUsers
from svc.users.rows import StoredUser
from svc.users.lists import PagePlace, Position, UserListQueries
from svc.users.handlers import UserQueries


async def no_mistake(
    users: UserQueries, lists: UserListQueries, keys: ApiKeyQueries
) -> tuple[str | None, list[str], int]:
    stored = await users.get_user(id=1, with_profile=False)
    start = PagePlace(ListUsers(is_active=True), Position()).start()
    (page,) = await lists.list_users_by_id(pages=[start])
    found = await lists.get_users_by_email(emails=[user.email for user in page])
    key = await keys.get_api_key(key_hash=b"hash")
    deleted: int = await users.delete_user(id=1, versions=None)
    name = stored.display_name if stored else None
    return name, [user.email for user in found] + (key.scopes if key else []), deleted


async def wrong_name_of_a_parameter(users: UserQueries) -> StoredUser | None:
    return await users.get_user(user_id=1, with_profile=False)  # mistake


async def missing_parameter(users: UserQueries) -> StoredUser | None:
    return await users.get_user(id=1)  # mistake


async def wrong_type_of_a_parameter(users: UserQueries) -> StoredUser | None:
    return await users.get_user(id="1", with_profile=False)  # mistake


async def positional_argument(users: UserQueries) -> StoredUser | None:
    return await users.get_user(1, with_profile=False)  # mistake


async def misspelt_query(users: UserQueries) -> StoredUser | None:
    return await users.get_usr(id=1, with_profile=False)  # mistake


async def misspelt_field(users: UserQueries) -> str | None:
    user = await users.get_user(id=1, with_profile=False)
    return user.emial if user else None  # mistake


async def row_that_may_be_missing(users: UserQueries) -> str:
    user = await users.get_user(id=1, with_profile=False)
    return user.email  # mistake


async def field_of_another_type(users: UserQueries) -> str:
    user = await users.get_user(id=1, with_profile=False)
    return user.display_name if user else "nobody"  # mistake


async def list_as_one_row(keys: ApiKeyQueries) -> ApiKey:
    return await keys.list_api_keys()  # mistake


async def text_for_bytes(keys: ApiKeyQueries) -> bool:
    return await keys.get_api_key(key_hash="hash") is not None  # mistake
