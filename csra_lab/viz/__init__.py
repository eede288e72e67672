"""Figures of the book, and the record of score maps that explorers read."""
