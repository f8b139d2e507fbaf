"""Who is calling, and for which task."""
