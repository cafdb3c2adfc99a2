r"""A Gaussian prior that depends on the condition $y$ of each sample: $x_0 \sim \mathcal{N}(m(y), C(y))$.

If $C(y)$ is singular, the model of that sample lives on the range of $C(y)$: events and predictions are projected onto
it, the noise of samplers stays in it, and densities are taken on it. A node mask is an example of such a condition.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arrays import float_dtype
from .._base.checks import is_traced
from .._base.condition import Batched, condition_of, split_condition
from .._base.typing import Array, Batch, Condition, DType, PyTree, Shape
from .base import AbstractGaussianPrior, AbstractPrior
from .scaled import check_prior


class Conditional(AbstractGaussianPrior):
    """A Gaussian prior that depends on the condition. The event shape is the same for all samples.

    Point clouds of several sizes are padded to one size, and the node mask of each sample is part of its condition:

    !!! example

        ```python
        def make_prior(condition):
            return prior.CentredGaussian((9, 3), mask=condition["mask"])

        model = frx.Model(network, frx.Linear(), shape=(9, 3), prior=prior.Conditional(make_prior, (9, 3)))
        ```

    On an affine path, the model of each sample is exactly the model of its valid points: masked nodes are zero in the
    noise, along the path and in the samples, whatever the network's output there, and they do not contribute to the
    density. For points that are not centred, return
    `Gaussian((9, 3), std=jnp.broadcast_to(condition["mask"][:, None], (9, 3)))` instead.

    `sample`, `log_prob` and the other functions bind the prior to the condition of each sample with
    [`bind_condition`][]. In `fit`, couplings pair standard normal noise with data; the noise is then transformed to the
    prior of the data point that it is paired with, so noise can be paired with data of any size. The error norm of
    adaptive steps in `sample` is the root mean square over all elements, including padding.
    """

    make_prior: Callable[[Condition], AbstractGaussianPrior]
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    is_standard: ClassVar[bool] = False

    def __init__(
        self, make_prior: Callable[[Condition], AbstractGaussianPrior], shape: Shape, *, dtype: DType | None = None
    ) -> None:
        """**Arguments:**

        - `make_prior`: a function from the condition of one sample to its prior; it is called with traced arrays.
        - `shape`: the shape of one event.
        - `dtype`: the floating dtype of events. Default: JAX's default floating dtype.
        """
        self.make_prior, self.shape = make_prior, tuple(shape)
        self.dtype = float_dtype(dtype)

    # The contract of a Gaussian cannot be fulfilled before a condition is bound.
    @property
    def mean(self) -> Array:
        raise ValueError(_UNKNOWN)

    @property
    def rank(self) -> int | Array:
        raise ValueError(_UNKNOWN)

    @property
    def log_determinant(self) -> Array:
        raise ValueError(_UNKNOWN)

    def _unknown(self, *_: Any, **__: Any) -> Any:
        raise ValueError(_UNKNOWN)

    root = covariance_product = precision_product = project = rescaled = _unknown


_UNKNOWN = (
    "The prior depends on the condition; pass condition= (one for all samples, or Batched), or bind the model to a "
    "condition with prior.bind_condition(model, condition)."
)


def bind_condition(tree: PyTree, condition: Condition) -> PyTree:
    """Binds every [`Conditional`][] prior in a model, or in any other PyTree, to the condition of one sample.

    **Arguments:**

    - `tree`: a model, a wrapper of models, a prior, ...
    - `condition`: the condition of one sample.

    **Returns:** the tree with the prior of that condition in place of every [`Conditional`][]; `tree` itself if it
    contains none.

    **Raises:** `ValueError` if `tree` contains a [`Conditional`][] and `condition` is None, or if the prior of the
    condition is not Gaussian or has another event shape or dtype.
    """

    def bound(leaf: Any) -> Any:
        return _bound_prior(leaf, condition) if isinstance(leaf, Conditional) else leaf

    return jax.tree.map(bound, tree, is_leaf=lambda leaf: isinstance(leaf, Conditional))


def bind_row(tree: PyTree, shared: Condition, row: PyTree) -> tuple[PyTree, Condition]:
    """Binds a model to the condition of one sample of a batch.

    **Arguments:**

    - `tree`: as in [`bind_condition`][].
    - `shared`, `row`: the two outputs of `split_condition`, the second one indexed to this sample.

    **Returns:** the tree bound to the condition of the sample, and that condition.
    """
    condition = condition_of(shared, row)
    return bind_condition(tree, condition), condition


def _bound_prior(prior: Conditional, condition: Condition) -> AbstractGaussianPrior:
    if condition is None:
        raise ValueError(_UNKNOWN)
    bound = prior.make_prior(condition)
    if not isinstance(bound, AbstractGaussianPrior):
        raise ValueError(
            f"The function passed to prior.Conditional must return a Gaussian prior; got {type(bound).__name__}."
        )
    check_prior(bound, prior.shape, prior.dtype)
    return bound


def check_range(name: str, prior: AbstractPrior, x: Batch, condition: Condition | Batched = None) -> None:
    """Raises `ValueError` for concrete events that are outside the range of a singular prior by more than rounding.

    A model with such a prior cannot generate these events, and its density ignores their component outside the range.

    **Arguments:**

    - `name`: the name of the argument `x` in the message.
    - `prior`: the distribution of `x0`.
    - `x`: the events, `(n, *event)`.
    - `condition`: one condition for all events, or `Batched`.
    """
    if is_traced(prior, x, condition) or not isinstance(prior, AbstractGaussianPrior) or prior.is_standard:
        return
    shared, rows = split_condition(condition)
    inside = jax.vmap(lambda x, row: bind_row(prior, shared, row)[0].project(x))(x, rows)
    outside = jnp.max(jnp.abs(x - inside), initial=0)
    if outside > jnp.finfo(x.dtype).eps ** 0.5 * jnp.max(jnp.abs(x), initial=0):
        raise ValueError(
            f"{name} leaves the range of the singular prior {type(prior).__name__} by up to {float(outside):.3g}; "
            "centre it with prior.remove_centre, or use another prior."
        )
