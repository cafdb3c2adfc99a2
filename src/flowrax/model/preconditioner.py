r"""Preconditioners: scales of the input and the output of a network $F$.

With a preconditioner the model's output is
$c_{\text{skip}}\, x + c_{\text{out}}\, F(c_{\text{in}}\, x, c_{\text{noise}})$.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_positive
from .._base.typing import Condition, Event, Network, Scalar
from ..schedule import AbstractSchedule
from .network import as_output


class AbstractPreconditioner(eqx.Module, metaclass=Checked):
    """Scales the input and the output of a network."""

    @abc.abstractmethod
    def __call__(
        self, network: Network, schedule: AbstractSchedule, t: Scalar, x: Event, condition: Condition
    ) -> Event:
        """The model's output, in terms of its target, for one event `x` at time `t`."""

    @abc.abstractmethod
    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        """Whether the preconditioner is infinite at `t = 0`, and whether at `t = 1`."""


class Unscaled(AbstractPreconditioner):
    """No preconditioning: the output is `network(t, x, condition)`."""

    def __call__(
        self, network: Network, schedule: AbstractSchedule, t: Scalar, x: Event, condition: Condition
    ) -> Event:
        return as_output(network(t, x, condition), x.dtype)

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return False, False


class EDMPreconditioner(AbstractPreconditioner):
    r"""Scales a network with target `Data()` to unit variance of input and output (Karras et al. 2022, table 1).

    For $x = \alpha d + \sigma n$ and data of standard deviation $\sigma_d$, with $V = \alpha^2 \sigma_d^2 + \sigma^2$:
    $c_{\text{in}} = V^{-1/2}$, $c_{\text{skip}} = \alpha \sigma_d^2 / V$, $c_{\text{out}} = \sigma \sigma_d V^{-1/2}$,
    $c_{\text{noise}} = \tfrac14 \log (\sigma / \alpha)$. For $\alpha = 1$ these are the paper's scales. The network is
    called as `network(c_noise, c_in * x, condition)`. `sigma_data` is $\sigma_d$; `ValueError` unless it is positive.

    **Reference:** [@karras2022elucidating].
    """

    sigma_data: float = 0.5

    def __check_init__(self) -> None:
        check_positive("sigma_data", self.sigma_data)

    def __call__(
        self, network: Network, schedule: AbstractSchedule, t: Scalar, x: Event, condition: Condition
    ) -> Event:
        alpha, sigma = schedule.alpha(t).astype(x.dtype), schedule.sigma(t).astype(x.dtype)
        std = jnp.sqrt((alpha * self.sigma_data) ** 2 + sigma**2)
        skip = alpha * (self.sigma_data / std) ** 2
        raw = as_output(network(-schedule.log_snr(t) / 8, x / std, condition), x.dtype)
        return skip * x + sigma * self.sigma_data / std * raw

    def singular_ends(self, schedule: AbstractSchedule) -> tuple[bool, bool]:
        return 0.0 in schedule.singularities.log_snr, 1.0 in schedule.singularities.log_snr
