"""PostgreSQL without a domain: statements, queries, connections, batching, migrations."""
