"""Experiments on heads: plans, many heads trained at once, what attention sees."""
