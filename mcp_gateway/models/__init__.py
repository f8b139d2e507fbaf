"""The model providers behind us: what is asked of them, which of them is asked, what they answer and what it took."""
