"""What keeps the house in shape: the checks, and the generators behind docs/."""
