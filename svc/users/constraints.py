"""What a client is told when a user would break a constraint."""

from svc.http.problems import OURS, Constraints, Refusal

EMAIL_TAKEN = Refusal(409, "email-taken", "#/email", "A user with this email exists")
NO_REFERRER = Refusal(422, "invalid", "#/referred_by", "There is no such user")
IN_PROGRESS = Refusal(409, "in-progress", "#", "The first request with this key is still at work")

CONSTRAINTS: Constraints = {
    "users_email_key": EMAIL_TAKEN,
    "users_profile_is_object": OURS,  # JsonObject takes objects alone, and two objects merge to an object
    "users_profile_is_small": Refusal(422, "invalid", "#/profile", "The profile has grown too large"),
    "users_referred_by_another": Refusal(422, "invalid", "#/referred_by", "Nobody refers themselves"),
    "users_referred_by_fkey": NO_REFERRER,
    "idempotency_keys_pkey": Refusal(
        409, "in-progress", "#", "The first request with this key is still at work"
    ),
}
