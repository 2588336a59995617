"""What is stored, as it comes from the database and is asked of it; what may be sent is in structs.py."""

from msgspec import Raw, Struct

from svc.postgres.mapping import Moment
from svc.users.structs import User


class StoredUser(Struct, frozen=True, gc=False):
    """A user as one row of the database, less what no reader may have."""

    id: int
    email: str
    display_name: str | None
    is_active: bool
    created_at: Moment
    version: int
    profile: Raw | None = None

    def public(self) -> User:
        """Return what clients see of it."""
        return User(self.id, self.email, self.display_name, self.is_active, self.created_at, self.profile)
