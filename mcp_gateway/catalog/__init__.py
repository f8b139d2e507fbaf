"""What exists: every target of every upstream, under the names agents see."""
