"""The interface of paths of categorical events: Markov noise on independent sites, with closed-form distributions."""

import abc

import equinox as eqx

from ..._base.arguments import Checked
from ..._base.typing import Array, KeyArray, PyTree, Scalar, Tokens
from ..prior import AbstractCategoricalPrior
from ..schedule import AbstractMasking


class AbstractCategoricalPath(eqx.Module, metaclass=Checked):
    r"""The distribution $q(x_t | x_1)$ of sites that are independently corrupted from the data towards a prior.

    Tokens are `(*shape)` integers and probabilities are `(*shape, K)`. A method that accepts either averages over
    probabilities. Times are scalars with $s < t$, so $s$ is the noisier time.
    """

    schedule: eqx.AbstractVar[AbstractMasking]
    r"""The schedule of the probability $\alpha$ that a site still holds the data.

    Raises `ValueError` if the path is not a mixture of data and prior.
    """

    @abc.abstractmethod
    def check_prior(self, prior: AbstractCategoricalPrior) -> None:
        """Raises `ValueError` for a prior that this path cannot use."""

    @abc.abstractmethod
    def noise(self, key: KeyArray, x0: Tokens) -> PyTree:
        """The random inputs of [`interpolate`][] other than the data, given a draw `x0` of the prior."""

    @abc.abstractmethod
    def interpolate(self, t: Scalar, x0: PyTree, x1: Tokens) -> Tokens:
        """The state at `t`, given `x0` as returned by [`noise`][]: a draw from $q(x_t | x_1)$."""

    @abc.abstractmethod
    def marginal(self, prior: AbstractCategoricalPrior, t: Scalar, x1: Array) -> Array:
        r"""$q(x_t | x_1)$, `(*shape, K)`, for tokens or probabilities `x1`."""

    @abc.abstractmethod
    def log_marginal(self, prior: AbstractCategoricalPrior, t: Scalar, log_p1: Array) -> Array:
        r"""The logarithm of [`marginal`][], given log-weights of the data `(*shape, K)` that need not be normalised."""

    @abc.abstractmethod
    def transition(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Array) -> Array:
        r"""$q(x_s | x_t = x)$, `(*shape, K)`: rows of the transition matrix, for tokens or probabilities at $t$."""

    @abc.abstractmethod
    def likelihood(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens) -> Array:
        r"""$q(x_s = x | x_t = k)$ for every class $k$, `(*shape, K)`: columns of the transition matrix."""

    @abc.abstractmethod
    def posterior(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens, x1: Array) -> Array:
        r"""$\sum_{x_1} p(x_1)\, q(x_t | x_s = x, x_1)$, `(*shape, K)`, for tokens or probabilities `x1` of the data."""
