"""The record of the transport plans from which `fit` draws its pairs."""

import warnings
from collections.abc import Iterable

import equinox as eqx
import jax.numpy as jnp

from .._base.typing import Array
from ..coupling import Pairs
from ..coupling.plan import UNCONVERGED


class PlanRecord(eqx.Module):
    """How close the plans of some steps are to the requested ones."""

    unconverged: Array
    """The number of plans that did not converge."""
    marginal_error: Array
    """The largest marginal error; NaN if no plan was computed."""

    def __add__(self, other: "PlanRecord") -> "PlanRecord":
        # The maximum ignores NaN.
        error = jnp.fmax(self.marginal_error, other.marginal_error)
        return PlanRecord(self.unconverged + other.unconverged, error)


def no_plan() -> PlanRecord:
    """The record without any step."""
    return PlanRecord(jnp.zeros((), jnp.int32), jnp.full((), jnp.nan, jnp.float32))


def plan_of(pairs: Pairs) -> PlanRecord:
    """The record of one batch."""
    if pairs.convergence is None:
        return no_plan()
    unconverged = (~pairs.convergence.converged).astype(jnp.int32)
    return PlanRecord(unconverged, pairs.convergence.marginal_error.astype(jnp.float32))


def sum_plans(records: Iterable[PlanRecord]) -> tuple[int, float]:
    """The number of unconverged plans, and the largest marginal error."""
    record = sum(records, no_plan())
    return int(record.unconverged), float(record.marginal_error)


def warn_of_plans(unconverged: int, marginal_error: float, first: int, last: int) -> None:
    """Warns of plans that did not converge, and states what to do about them."""
    warnings.warn(
        f"{unconverged} of the transport plans of steps {first} to {last} did not converge: their marginal error is up "
        f"to {marginal_error:.3g}. {UNCONVERGED} The history of fit counts later ones.",
        stacklevel=4,
    )
