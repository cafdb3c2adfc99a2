"""The version, kept in `pyproject.toml` alone and read back from the installed metadata."""

import importlib.metadata

__version__: str = importlib.metadata.version("flowrax")
