r"""A drift with a known linear part: $\mathrm{d}x = \big(\tfrac{\dot\sigma}{\sigma} - c \dot\lambda\big) x\,
\mathrm{d}t + (1 + c)\, \alpha \dot\lambda\, D(t, x)\, \mathrm{d}t$ with $\lambda = \log(\alpha / \sigma)$ and the data
prediction $D$.

For $c = 0$ this is the probability flow. With the noise $\sqrt{2 c \dot\lambda}\, \sigma\, \mathrm{d}W$ it is the
reverse SDE with the coefficient $w = c\, g^2 / 2$, since $g^2 = 2 \sigma^2 \dot\lambda$.
"""

from typing import Any

import diffrax as dfx

from .._base.typing import Array, Condition, Event, Scalar
from ..model.base import AbstractContinuousModel
from ..schedule import AbstractSchedule


class SemilinearTerm(dfx.ODETerm):
    """A drift term that also provides the data prediction and the schedule.

    Exponential solvers use those two; every other solver treats the term as an `ODETerm`.
    """

    vector_field: Any
    """The whole drift, a function of `(t, x, args)`."""
    scale: float | Array | None = 0.0
    """The $c$ of the linear part; None where the drift does not have this form."""

    def denoise(self, t: Scalar, x: Event, args: tuple[AbstractContinuousModel, Condition]) -> Event:
        """The data prediction at `(t, x)`; `args` is `(model, condition)`."""
        model, condition = args
        return model.predict(t, x, condition).data

    def schedule(self, args: tuple[AbstractContinuousModel, Condition]) -> AbstractSchedule:
        """The schedule of the model in `args`."""
        return args[0].schedule
