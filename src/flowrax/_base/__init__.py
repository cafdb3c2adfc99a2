"""Types, argument checks, conditions and records of results, used by all other subpackages."""
