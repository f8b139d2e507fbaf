"""Checks on calls that the policy has already allowed."""
