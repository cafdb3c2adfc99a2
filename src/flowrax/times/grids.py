r"""Where to step: fixed times for `sample(..., grid=...)`."""

import jax.numpy as jnp

from .._checks import check_interval
from .._typing import Array
from ..schedule import AbstractSchedule


def log_snr_grid(schedule: AbstractSchedule, num_steps: int, t_min: float, t_max: float) -> Array:
    r"""Times between which $\lambda = \log(\alpha^2 / \sigma^2)$ grows evenly (Lu et al. 2022, section 3.3).

    What a reverse SDE wants: of equal steps in `t` the last must take away nearly all noise that a narrow law allows.

    **Arguments:**

    - `schedule`: of the model.
    - `num_steps`: number of steps `k`.
    - `t_min`, `t_max`: the ends, such as `dynamics.interval(model)`.

    **Returns:** `(k + 1,)` times from `t_min` to `t_max`, exact at the ends.

    **Raises:** `ValueError` for an end where the log-SNR is infinite.

    ??? cite "Reference"

        ```bibtex
        @inproceedings{lu2022dpm,
            author={Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun},
            title={DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps},
            booktitle={Advances in Neural Information Processing Systems},
            year={2022},
        }
        ```
    """
    check_interval(t_min, t_max)
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} are too few; at least 1 is needed.")
    for name, t in (("t_min", t_min), ("t_max", t_max)):
        if schedule.is_singular("log_snr", t):
            raise ValueError(f"The log-SNR is infinite at {name}={t:g}; stop short of it, by 1e-3 or so.")
    start, end = (schedule.log_snr(jnp.asarray(t, float)) for t in (t_min, t_max))
    times = schedule.time_at(jnp.linspace(start, end, num_steps + 1))
    return times.at[0].set(t_min).at[-1].set(t_max)
