"""Where things are kept: SQLite files that only the gateway's own user can read."""
