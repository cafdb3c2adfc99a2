"""The version, which is set in `pyproject.toml` and read from the installed metadata."""

import importlib.metadata

__version__: str = importlib.metadata.version("flowrax")
