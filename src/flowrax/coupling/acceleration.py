r"""Faster iterations for an entropic plan: momentum, Anderson's extrapolation, and a decreasing $\varepsilon$.

The arguments and their defaults are the same as in ott-jax.
"""

import abc
from typing import Any

import equinox as eqx

from .._base.checks import check_count, check_positive, plain_int
from .ott_jax import ott_jax


class AbstractAcceleration(eqx.Module):
    """Changes the iterations, but not the plan to which they converge."""

    @abc.abstractmethod
    def options(self) -> dict[str, Any]:
        """The corresponding arguments of `ott.solvers.linear.sinkhorn.Sinkhorn`."""


class Momentum(AbstractAcceleration):
    """Makes the steps of Sinkhorn's iterations longer by the factor `value`. From iteration `start` on, the factor is
    chosen from the progress of the iterations; `start=0` keeps `value`.

    **References:** [@thibault2021overrelaxed], [@lehmann2022note].
    """

    value: float = eqx.field(default=1.0, static=True)
    start: int = eqx.field(default=0, static=True, converter=plain_int)

    def __check_init__(self) -> None:
        check_positive("value", self.value)
        check_count("start", self.start, 0)

    def options(self) -> dict[str, Any]:
        with ott_jax():
            from ott.solvers.linear import acceleration
        return {"momentum": acceleration.Momentum(start=self.start, value=self.value)}


class Anderson(AbstractAcceleration):
    """Extrapolates from the last `memory` iterations, once in every `refresh_every` iterations.

    **Reference:** [@chizat2020faster].
    """

    memory: int = eqx.field(default=2, static=True, converter=plain_int)
    refresh_every: int = eqx.field(default=1, static=True, converter=plain_int)

    def __check_init__(self) -> None:
        check_count("memory", self.memory)
        check_count("refresh_every", self.refresh_every)

    def options(self) -> dict[str, Any]:
        with ott_jax():
            from ott.solvers.linear import acceleration
        return {"anderson": acceleration.AndersonAcceleration(self.memory, self.refresh_every)}


class Annealing(eqx.Module):
    r"""Starts the iterations with `start` times $\varepsilon$, and multiplies this factor by `decay` after each
    iteration until it is one.

    **Reference:** [@schmitzer2019stabilized].
    """

    start: float = eqx.field(default=10.0, static=True)
    decay: float = eqx.field(default=0.9, static=True)

    def __check_init__(self) -> None:
        check_positive("start", self.start)
        check_positive("decay", self.decay)
        if self.start < 1 or self.decay >= 1:
            raise ValueError(
                f"start={self.start} and decay={self.decay} do not decrease to one; use start of at least 1 and decay "
                "below 1."
            )
