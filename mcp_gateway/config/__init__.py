"""What the operator wrote: servers.toml, the secrets it points to, and news of edits."""
