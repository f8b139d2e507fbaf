"""Secrets for upstreams: found, kept and refreshed here, never shown."""
