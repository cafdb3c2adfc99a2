"""Types, argument checks, conditions and records of results: what every room needs."""
