"""Guidance of categorical models and of their jumps."""
