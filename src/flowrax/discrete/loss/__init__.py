"""Losses for models of categorical events."""
