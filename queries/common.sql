-- snippet: version_matches
-- The row must still be one of the versions, where any are named (If-Match).
(:versions::bigint[] is null or version = any(:versions))
