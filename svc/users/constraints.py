"""What a client is told when a user would break a constraint."""

from svc.http.problems import OURS, Constraints, Refusal

EMAIL_TAKEN = Refusal(409, "email-taken", "#/email", "A user with this email exists")
NO_REFERRER = Refusal(422, "invalid", "#/referred_by", "There is no such user")
IN_PROGRESS = Refusal(409, "in-progress", "#", "The first request with this key is still at work")


def stored(pointer: str, rule: str) -> Refusal:
    """Return the answer where a change meets what others put into the table, and no request can bring."""
    return Refusal(409, "stored-invalid", pointer, f"A user is stored with {rule}: change that first")


CONSTRAINTS: Constraints = {
    "users_email_key": EMAIL_TAKEN,
    "users_profile_is_object": OURS,  # JsonObject takes objects alone, and two objects merge to an object
    "users_profile_is_small": Refusal(422, "invalid", "#/profile", "The profile has grown too large"),
    "users_referred_by_another": Refusal(422, "invalid", "#/referred_by", "Nobody refers themselves"),
    "users_referred_by_fkey": NO_REFERRER,
    "users_email_is_canonical": stored("#/email", "an email that is not in canonical form"),
    "users_display_name_is_a_line": stored("#/display_name", "a name that is no line of 1 to 200 characters"),
    "users_created_at_has_a_year": stored("#", "a created_at outside of the years 1 to 9999"),
    "users_updated_at_has_a_year": stored("#", "an updated_at outside of the years 1 to 9999"),
    "idempotency_keys_pkey": Refusal(
        409, "in-progress", "#", "The first request with this key is still at work"
    ),
}
