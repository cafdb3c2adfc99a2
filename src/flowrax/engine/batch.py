"""Many samples of one equation: what the ways of solving them, and the way back for their gradient, have in common."""

import diffrax as dfx
import equinox as eqx

from .._base.typing import PyTree
from .bound_sample import AbstractEquation, BoundSample, Progress
from .saving import Saved, Saver
from .stepping import Stepping


class Method(eqx.Module):
    """How the samples of a batch are solved."""

    solver: dfx.AbstractSolver
    stepping: Stepping
    saver: Saver | None
    meter: dfx.AbstractProgressMeter
    lanes: int = eqx.field(static=True)


class Batch(eqx.Module):
    """The samples of one equation: each leaf of `starts` has a leading axis `n`."""

    equation: AbstractEquation
    starts: tuple[PyTree, PyTree]
    method: Method

    def bind(self, start: tuple[PyTree, PyTree]) -> BoundSample:
        """One sample with its terms and arguments."""
        return BoundSample(self.equation, start, self.method.solver, self.method.stepping)

    def first(self, start: tuple[PyTree, PyTree]) -> tuple[Progress, Saved | None]:
        """The first progress of an adaptive solve of one sample, and the room for its saved values."""
        sample = self.bind(start)
        saver = self.method.saver
        return sample.first(), None if saver is None else saver.blank(sample)
