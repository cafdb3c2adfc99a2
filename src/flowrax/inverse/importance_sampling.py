r"""Importance sampling of a posterior by a guided flow.

The density $q$ of a guided flow only approximates the posterior. Since $q(x_i)$ is computed along with the draws, the
weights $w_i \propto p(x_i)\, p(y | x_i) / q(x_i)$ correct for it, and their mean estimates the evidence $p(y)$. A draw
whose solve fails has weight zero and counts in this mean.
"""

from ..divergence import AbstractDivergence, Exact
from ..guidance import AbstractGuidance, PiGDM
from .base import AbstractPosteriorMethod


class ImportanceSampling(AbstractPosteriorMethod):
    r"""Draws of the flow that a guidance rule makes, weighted to be exact as their number grows.

    It costs a likelihood solve of the guided model and one of the prior for each draw, and takes the options of
    [`sample`][]. The standard error of the evidence is $\sqrt{1 / \text{ess} - 1 / n}$, to first order, from the same
    weights. It is too small where few of them dominate: `khat` above 0.7, or an effective size below a tenth of the
    draws, means that neither the weights nor the evidence can be trusted, and a warning says so outside `jit`.

    **References:** [@vehtari2024pareto].
    """

    proposal: AbstractGuidance = PiGDM()
    """The rule that guides the flow. The closer its draws are to the posterior, the more even are the weights."""
    divergence: AbstractDivergence = Exact()
    """The estimator of the divergence; a random one makes the weights noisy."""

    @property
    def differentiable(self) -> bool:
        return True
