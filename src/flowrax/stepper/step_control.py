"""Error control of adaptive steps: what follows an attempted step, and controllers that never force one in silence."""

import functools
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from .._base.result import NONFINITE, RESULTS
from .._base.typing import Array, PyTree

# Step sizes of an SDE are this many to an octave.
_STEPS_PER_OCTAVE = 4


class CheckedController(dfx.AbstractAdaptiveStepSizeController):
    """A PID controller that ends the solve, with `RESULTS.dt_min_reached`, where it forces a step over its tolerance.

    With `unit`, the step sizes are `unit` times a power of $2^{1/4}$. Then a difference in rounding does not change
    which steps are taken, and so which increments of a Brownian path are used.
    """

    rtol: Any
    atol: Any
    norm: Callable[[PyTree], Any]
    controller: dfx.PIDController
    unit: Array | None

    def __init__(self, controller: dfx.PIDController, unit: Array | None = None):
        self.rtol, self.atol, self.norm = controller.rtol, controller.atol, controller.norm
        self.controller, self.unit = controller, unit

    def wrap(self, direction: Any) -> "CheckedController":
        return self  # A PID controller does not depend on the direction of time.

    def init(
        self, terms: Any, t0: Any, t1: Any, y0: Any, dt0: Any, args: Any, func: Any, error_order: Any
    ) -> tuple[Any, Any]:
        t_next, state = self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return self._quantised(t0, t_next), state

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: PyTree,
        y1_candidate: PyTree,
        args: PyTree,
        y_error: PyTree,
        error_order: Any,
        controller_state: PyTree,
    ) -> tuple[Any, Any, Any, Any, PyTree, Any]:
        inner = self.controller
        keep, t_prev, t_next, made_jump, state, result = inner.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
        )
        if inner.dtmin is not None and inner.force_dtmin:
            forced = keep & ~(_scaled_error(inner, y0, y1_candidate, y_error) < 1)
            result = RESULTS.where(forced, RESULTS.dt_min_reached, result)
        return keep, t_prev, self._quantised(t_prev, t_next), made_jump, state, result

    def _quantised(self, t0: Any, t1: Any) -> Any:
        if self.unit is None:
            return t1
        octaves = jnp.round(_STEPS_PER_OCTAVE * jnp.log2((t1 - t0) / self.unit)) / _STEPS_PER_OCTAVE
        return t0 + self.unit * jnp.exp2(octaves)


def checked(controller: dfx.AbstractStepSizeController, unit: Array | None = None) -> dfx.AbstractStepSizeController:
    """The controller with any PID controller in it replaced by a [`CheckedController`][]."""
    if isinstance(controller, dfx.PIDController):
        if unit is None and controller.dtmin is None:
            return controller
        return CheckedController(controller, unit)
    if isinstance(controller, dfx.ClipStepSizeController):
        # Its times must be met exactly.
        return eqx.tree_at(lambda clip: clip.controller, controller, checked(controller.controller))
    return controller


def _scaled_error(controller: dfx.PIDController, y0: PyTree, y1: PyTree, error: PyTree) -> Array:
    def scale(a: Array, b: Array, error: Array) -> Array:
        size = jnp.maximum(jnp.abs(a), jnp.abs(jnp.where(jnp.any(jnp.isnan(b)), a, b)))
        with jax.numpy_dtype_promotion("standard"):
            return error / (controller.atol + size * controller.rtol)

    return jnp.asarray(controller.norm(jax.tree.map(scale, y0, y1, error)))


class Adapted(eqx.Module):
    """What the error control makes of an attempted step."""

    keep: Array
    """Whether the step is accepted."""
    t0: Array
    """Start of the next step."""
    t1: Array
    """End of the next step."""
    made_jump: Any
    controller_state: PyTree
    result: Any


def adapt(
    controller: dfx.AbstractStepSizeController,
    interval: tuple[Array, Array],
    step: tuple[Array, Array],
    states: tuple[PyTree, PyTree],
    args: PyTree,
    error: PyTree,
    order: Any,
    controller_state: PyTree,
    solver_result: Any,
) -> Adapted:
    """Accepts or rejects a step and chooses the next one, in a time that runs forward.

    **Arguments:**

    - `controller`, `controller_state`: the step size control.
    - `interval`: the start and the end of the solve.
    - `step`: the start and the end of the attempted step.
    - `states`: the states there.
    - `args`: the arguments of the vector field.
    - `error`, `order`: the error estimate and its order.
    - `solver_result`: the solver's code for the step.
    """
    (t0, t1), (y0, y1) = interval, states
    error = jax.tree.map(functools.partial(jnp.nan_to_num, nan=jnp.inf, posinf=jnp.inf, neginf=-jnp.inf), error)
    keep, t_prev, t_next, made_jump, controller_state, result = controller.adapt_step_size(
        *step, y0, y1, args, error, order, controller_state
    )
    keep, t_prev = jnp.asarray(keep), jnp.minimum(t_prev, t1)
    # The last step must not be so short that its interpolation is rounding error only.
    resolution = jnp.finfo(t1.dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))
    last = jnp.where(keep, t1, jnp.minimum(t_next, t_prev + (t1 - t_prev) / 2))
    t_next = jnp.where(t_next > t1 - 100 * resolution, last, t_next)
    result = RESULTS.where(keep & (solver_result != RESULTS.successful), solver_result, result)
    # A rejected step that time cannot resolve ends the solve, as does a step size that is not a number.
    stuck = ~keep & ~(t_next - t_prev > 2 * resolution) & (result == RESULTS.successful)
    infinite = jnp.isinf(optx.max_norm(error))
    result = RESULTS.where(stuck, RESULTS.where(infinite, NONFINITE, RESULTS.dt_min_reached), result)
    return Adapted(keep, t_prev, t_next, made_jump, controller_state, result)
