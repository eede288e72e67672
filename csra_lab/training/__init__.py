"""The training loop, what feeds it, and what it writes."""
