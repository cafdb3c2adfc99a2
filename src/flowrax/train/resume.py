"""The checkpoint of a training run, from which the same run resumes."""

import os
import pathlib
import warnings
from typing import Any

from .._base.arguments import check_path
from .._base.describe import describe
from .._base.files import check_writable
from .checkpoint import read, write

History = list[list[float]]


class RunFile:
    """The file of one run, which only a run with the same arguments can use."""

    problem: str
    """The reason why the last state is not in the file, one sentence after a space; empty if it was saved."""

    def __init__(self, path: str | os.PathLike[str], arguments: dict[str, Any]) -> None:
        """Raises `OSError` if the file cannot be written, before time is spent on training.

        **Arguments:**

        - `path`: the path of the file.
        - `arguments`: everything that must be the same in all runs that share the file, by name.
        """
        check_path("checkpoint", path)
        self.path, self.problem = pathlib.Path(path), ""
        check_writable(self.path)
        self.run = {k: v for name, part in arguments.items() for k, v in describe(part, name, by_value=True).items()}

    def restore(self, state: Any) -> tuple[Any, History]:
        """The saved state and history, or `state` and no history if there is no file.

        Raises `ValueError` that names the arguments in which the saved run differs.
        """
        if not self.path.exists():
            return state, []
        checkpoint = read(self.path)
        if checkpoint.run is None:
            raise ValueError(f"{self.path} holds a saved object and no training run; use another path.")
        if different := checkpoint.differences(checkpoint.run, self.run, "this run"):
            raise ValueError(
                f"{self.path} belongs to another run: {different} Remove the file, or use another path for this run."
            )
        return checkpoint.restore(state, "this run"), checkpoint.metadata["history"]

    def write(self, state: Any, history: History) -> None:
        """Writes the state. A failure is a warning, because the training itself is not affected."""
        try:
            write(self.path, state, {"history": history}, self.run)
            self.problem = ""
        except OSError as error:
            self.problem = f" The checkpoint of step {int(state.step)} was not saved: {error}."
            warnings.warn(f"{self.problem[1:]} Training goes on.", stacklevel=2)
