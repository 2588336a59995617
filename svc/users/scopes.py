"""What a key may hold to work with users."""

READ = "users:read"
WRITE = "users:write"

SCOPES = {READ: "Read all users", WRITE: "Create, change, import and delete users"}
