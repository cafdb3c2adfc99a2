"""Paths of categorical events from noise to data."""
