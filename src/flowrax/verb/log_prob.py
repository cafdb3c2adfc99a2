r"""Log-densities by the instantaneous change of variables (Chen et al. 2018, theorem 1).

Along the probability flow $\frac{\mathrm{d}}{\mathrm{d}t} \log p_t(x_t) = -\nabla \cdot v(t, x_t)$, so one solve of
$(x, \ell)$ with $\dot\ell = -\nabla \cdot v$ gives $\log p_{t_{\max}}(x) = \log p_{t_{\min}}(x_{t_{\min}}) +
\ell(t_{\max}) - \ell(t_{\min})$. With random probes $\ell$ has one entry per probe.
"""

import diffrax as dfx
import numpy as np

from .._base.arguments import checked
from .._base.condition import Batched, cast_condition
from .._base.random import as_threefry
from .._base.result import LogProb
from .._base.typing import Array, BatchLike, Condition, Integer, KeyLike
from ..discrete.base import AbstractCategoricalModel
from ..discrete.likelihood_bound import categorical_bound
from ..divergence import AbstractDivergence, Exact
from ..dynamics import ProbabilityFlow
from ..engine import Grid, ProgressLike
from ..model.base import AbstractContinuousModel, AbstractModel
from ..prior import check_range
from .density_solve import DensitySolve, keys_of_rows
from .log_prob_error import ErrorOptions, solve_with_errors
from .options import SolveOptions, check_model
from .shared_condition import check_shared


@checked
def log_prob(
    model: AbstractModel,
    x: BatchLike,
    *,
    condition: Condition | Batched = None,
    key: KeyLike | None = None,
    divergence: AbstractDivergence | None = None,
    solver: dfx.AbstractSolver | None = None,
    rtol: float | Array | None = None,
    atol: float | Array | None = None,
    grid: Grid | None = None,
    stepsize_controller: dfx.AbstractStepSizeController | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
    lanes: Integer | None = None,
    max_steps: Integer | None = None,
    target_standard_error: float | None = None,
    max_probes: Integer | None = None,
    discretisation_error: bool = False,
    progress: ProgressLike = False,
    throw: bool = True,
) -> LogProb:
    """Log-density of each row of `x` under the model at `t_max`, with the standard error of a random divergence.

    For categorical models this is a lower bound on the log-probability, with its Monte Carlo standard error. With
    `grid` it bounds the sampler run on that grid; otherwise it is the continuous-time bound. Either takes 128
    evaluations of the network, or two per step if that is more. The bound is minus infinity where the model, or the
    part of the data that its source lacks, excludes a row. For noise other than masks the continuous-time bound is
    finite only if the model leaves no doubt about the data as `t` goes to 1; the bound on a grid is always finite.
    Only `condition`, `key` (required), `grid`, `lanes`, `progress` and `throw` apply.

    **Arguments:**

    - `model`: its probability flow is solved from `t_max` back to `t_min`.
    - `x`: `(n, *event)`. If its rows are split over devices (by its sharding), each device solves its own rows.
    - `condition`: one condition for all rows, or `Batched(c)` with a leading axis `n` on every leaf.
    - `key`: for a random divergence; row `i` draws from `fold_in(key, i)` only.
    - `divergence`: [`Exact`][], [`Hutchinson`][], another random estimator, or a [`ControlVariate`][] around one of
        these: nearly exact, for a fraction of the time. Default: `Exact()`.
    - `solver`: a diffrax ODE solver. Default: `Dopri5()`.
    - `rtol`, `atol`: tolerances of the error per step in x and in the log-density of each row. Default: 1e-5 each.
        `atol` is in units of the state: data that vary by less than it are not resolved. Pass an `atol` of about a
        hundredth of their smallest spread, or rescale the data.
    - `grid`: a number of equal steps or the `(k + 1,)` times of fixed ones, in place of tolerances.
    - `stepsize_controller`: a diffrax controller, in place of tolerances.
    - `adjoint`: a diffrax adjoint. Default: the exact gradient of the accepted steps.
    - `lanes`: how many rows advance together; bounds memory. Default: 1,024 on CPU and 8,192 on GPU for adaptive steps,
        all rows on a grid.
    - `max_steps`: the limit of attempted steps in each adaptive solve. Default: 4,096.
    - `target_standard_error`: in nats. Rows above it are solved again with fresh probes, doubled each time, until they
        meet it or have `max_probes`; `LogProb.num_probes` counts them, and the standard error reported is the one
        reached. For [`Hutchinson`][] with at least 2 probes (8 or more give an error one can decide by), within a
        [`ControlVariate`][] or not, and outside `jit`.
    - `max_probes`: the limit of probes for each row, over all rounds. Default: 1,024.
    - `discretisation_error`: whether to solve once more, with the same probes and half steps on a grid or a tenth of
        the tolerances, for `LogProb.discretisation_error`: `value` minus the finer value, after Richardson
        extrapolation on a grid. It estimates the error of the steps in `value`, not of the probes. Tolerances near
        rounding error cannot be refined.
    - `progress`: True, or a diffrax progress meter.
    - `throw`: whether a failed solve raises; otherwise its row is NaN and carries its code.

    **Returns:** a [`LogProb`][] in nats.

    **Raises:** `ValueError` for a bad argument or events that leave the range of a singular prior, [`SolveError`][]
    for a failed solve.
    """
    options = SolveOptions(
        solver=solver,
        rtol=rtol,
        atol=atol,
        grid=grid,
        stepsize_controller=stepsize_controller,
        adjoint=adjoint,
        lanes=lanes,
        divergence=divergence,
        max_steps=max_steps,
        target_standard_error=target_standard_error,
        max_probes=max_probes,
        discretisation_error=discretisation_error,
        progress=progress,
    )
    key = None if key is None else as_threefry(key)
    check_model(model, "log_prob")
    if isinstance(model, AbstractCategoricalModel):
        options.check_bound(model)
        check_shared(model, condition, np.shape(x)[0] if np.ndim(x) else 0)
        return categorical_bound(model, x, condition, key, grid, options.lanes, progress, throw=throw)
    if not isinstance(model, AbstractContinuousModel):
        raise ValueError(
            f"{type(model).__name__} has no log_prob: only models of continuous or of categorical events have."
        )
    events = model.events("x", x)
    check_shared(model, condition, len(events))
    divergence = Exact() if divergence is None else divergence
    if divergence.needs_key and key is None:
        raise ValueError(f"{type(divergence).__name__} draws probes; pass key=jax.random.key(...).")
    spec = options.resolve(model, ProbabilityFlow(), divergence, backward=True)
    condition = cast_condition(condition, model.dtype, events.shape[0])
    check_range("x", model.prior, events, condition)
    keys = None if key is None else keys_of_rows(key, len(events))
    errors = ErrorOptions.of(options)
    errors.check(divergence, spec.stepping, (model, events, condition, key), model.shape)
    return solve_with_errors(DensitySolve(model, divergence, spec, throw), events, condition, keys, errors)
