"""What happened, kept: every decision before the call leaves, every outcome before the agent hears of it."""
