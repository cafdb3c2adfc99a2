r"""Restart (Xu et al. 2023, algorithm 1): add noise to return to an earlier time, and integrate the flow again.

The forward process and the flow both keep the marginals; together they contract the errors made before.
"""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_interval, plain_int
from .._base.typing import Array, Event, PyTree, Scalar
from ..model.base import AbstractContinuousModel
from ..stepper import AbstractExponentialSolver
from ..stepper.exponential.base import scaled
from .renoise import AbstractRenoised, inner_solver, renoise


class _Restarted(dfx.AbstractItoSolver):
    """A solver of the flow, with restarts after the step that reaches `t_max` of [`Restart`][]."""

    solver: AbstractExponentialSolver
    restart: "Restart"
    term_structure: ClassVar[Any] = dfx.AbstractTerm
    interpolation_cls: ClassVar[Any] = dfx.LocalLinearInterpolation

    @property
    def num_evaluations_per_step(self) -> int:
        """Evaluations in one step of the grid; the restarts are not counted."""
        return self.solver.num_evaluations_per_step

    def init(self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree) -> Any:
        return jnp.asarray(False), self.solver.init(terms.terms[0], t0, t1, y0, args)

    def step(
        self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree, solver_state: Any, made_jump: Any
    ) -> tuple[Any, ...]:
        (flow, noise), (moved, inner) = terms.terms, solver_state
        y1, _, _, inner, result = self.solver.step(flow, t0, t1, y0, args, inner, made_jump | moved)

        def again(y: Event) -> Event:
            draws = scaled(1 / jnp.sqrt(t1 - t0), noise.contr(t0, t1).astype(y0.dtype))
            return jax.lax.scan(lambda y, xi: (self._once(flow, jnp.asarray(t1), y, xi, args), None), y, draws)[0]

        hit = (t0 < self.restart.t_max) & (self.restart.t_max <= t1)
        y1 = jax.lax.cond(hit, again, lambda y: y, y1)
        return y1, None, {"y0": y0, "y1": y1}, (hit, inner), result

    def _once(self, flow: dfx.AbstractTerm, t: Array, y: Event, xi: Event, args: PyTree) -> Event:
        schedule, low = args[0].schedule, jnp.asarray(self.restart.t_min, t.dtype)
        ends = schedule.log_snr(low), schedule.log_snr(t)
        inner = schedule.time_at(jnp.linspace(*ends, self.restart.num_steps + 1)).astype(t.dtype)
        steps = inner.at[0].set(low).at[-1].set(t)
        y = renoise(args[0], t, low, y, xi)
        state = self.solver.init(flow, steps[0], steps[1], y, args)

        def advance(carry: Any, times: tuple[Array, Array]) -> tuple[Any, None]:
            y, state = carry
            y, _, _, state, _ = self.solver.step(flow, *times, y, args, state, jnp.asarray(False))
            return (y, state), None

        return jax.lax.scan(advance, (y, state), (steps[:-1], steps[1:]))[0][0]

    def func(self, terms: Any, t0: Scalar, y0: Event, args: PyTree) -> PyTree:
        return terms.vf(t0, y0, args)


class Restart(AbstractRenoised):
    r"""The probability flow with restarts.

    It needs a grid. The `solver` passed to `sample` is an exponential solver. Default: [`EDMHeun`][].

    After the step that reaches `t_max`, noise takes the state back to `t_min`, and `num_steps` steps, equal in log-SNR,
    bring it to the end of that step again; this is repeated `num_restarts` times. `Samples.stats` does not count
    these steps. Raises `ValueError` for a coupling that is not independent.

    **Reference:** [@xu2023restart].
    """

    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)
    num_restarts: int = eqx.field(static=True, converter=plain_int)
    num_steps: int = eqx.field(static=True, converter=plain_int)

    def __init__(self, t_min: float, t_max: float, *, num_restarts: int = 1, num_steps: int = 8):
        """**Arguments:**

        - `t_min`, `t_max`: the time to which a restart returns, and the time that triggers it. The log-SNR must be
            finite at both.
        - `num_restarts`: the number of restarts. Default: 1.
        - `num_steps`: steps of the flow in each restart. Default: 8.

        Raises `ValueError` for times out of order or counts below one.
        """
        check_interval(t_min, t_max)
        if num_restarts < 1 or num_steps < 1:
            raise ValueError(f"num_restarts and num_steps must be at least 1; got {num_restarts} and {num_steps}.")
        self.t_min, self.t_max = float(t_min), float(t_max)
        self.num_restarts, self.num_steps = num_restarts, num_steps

    def check(self, model: AbstractContinuousModel) -> None:
        for name, t in (("t_min", self.t_min), ("t_max", self.t_max)):
            if not model.t_min <= t <= model.t_max or t in model.schedule.singularities.log_snr:
                raise ValueError(
                    f"Restart has {name}={t}; it needs times in [{model.t_min}, {model.t_max}] of finite log-SNR."
                )

    def num_draws(self) -> int:
        return self.num_restarts

    def stepper(self, solver: dfx.AbstractSolver | None) -> _Restarted:
        return _Restarted(inner_solver(solver, "Restart"), self)
