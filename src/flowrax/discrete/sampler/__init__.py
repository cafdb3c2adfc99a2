"""Samplers of categorical events."""
