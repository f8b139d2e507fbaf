"""What this caller may use: tasks, grants and conditions, one decision function for every list and every call."""
