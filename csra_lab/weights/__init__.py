"""Weights: where they come from, and other code bases' checkpoints."""
