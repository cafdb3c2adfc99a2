r"""A Gaussian of the row: $x_0 \sim \mathcal{N}(m(y), C(y))$ with $y$ the condition.

Where $C(y)$ is singular so is the model of that row: what leaves the range of $C(y)$ is projected out of events and
predictions, the noise of samplers stays in it, and densities are on it. A mask is such a condition.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import is_traced
from .._condition import Batched, condition_of, split_condition
from .._typing import Array, Batch, Condition, DType, Event, PyTree, Scalar, Shape
from .base import AbstractGaussianPrior, AbstractPrior
from .scaled import check_prior


class Conditional(AbstractGaussianPrior):
    """A Gaussian prior that depends on the condition, of one shape for all rows.

    Point clouds of several sizes are padded to one, and the mask of a row is part of its condition:

    !!! example

        ```python
        def law(condition):
            return prior.CentredGaussian((9, 3), mask=condition["mask"])

        model = frx.Model(network, frx.Linear(), shape=(9, 3), prior=prior.Conditional(law, (9, 3)))
        ```

    On an affine path such a model is, row by row, exactly the model of the points that count: masked nodes are zero in
    the noise, on the way and in the samples, whatever the network says there, and add nothing to a density. Without
    the centring the law is `Gaussian((9, 3), std=jnp.broadcast_to(condition["mask"][:, None], (9, 3)))`.

    The verbs put the law of its condition into every row by [`given`][]. In `fit` a coupling sees standard normal
    noise, which then gets the law of the row of data that it meets: so noise may meet data of any size.
    """

    law: Callable[[Condition], AbstractGaussianPrior]
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)

    def __init__(
        self, law: Callable[[Condition], AbstractGaussianPrior], shape: Shape, *, dtype: DType | None = None
    ) -> None:
        """**Arguments:**

        - `law`: the prior of one event, given its condition; called with traced arrays.
        - `shape`, `dtype`: of its events; JAX's default dtype without.
        """
        self.law, self.shape = law, tuple(shape)
        self.dtype = jnp.dtype(jnp.result_type(float) if dtype is None else dtype)

    @property
    def is_standard(self) -> bool:
        return False

    @property
    def mean(self) -> Array:
        raise ValueError(_UNKNOWN)

    @property
    def rank(self) -> int | Array:
        raise ValueError(_UNKNOWN)

    @property
    def log_determinant(self) -> Array:
        raise ValueError(_UNKNOWN)

    def root(self, z: Event) -> Event:
        raise ValueError(_UNKNOWN)

    def covariance_product(self, x: Event) -> Event:
        raise ValueError(_UNKNOWN)

    def precision_product(self, x: Event) -> Event:
        raise ValueError(_UNKNOWN)

    def project(self, x: Event) -> Event:
        raise ValueError(_UNKNOWN)

    def rescaled(self, factor: Scalar) -> AbstractGaussianPrior:
        raise ValueError(_UNKNOWN)


_UNKNOWN = (
    "The prior depends on the condition; pass condition= (verbs take one for all rows, or Batched), or a model that "
    "has it from prior.given(model, condition)."
)


def given(tree: PyTree, condition: Condition) -> PyTree:
    """A model (or a prior, or any tree of them) with the law of one row wherever it holds a [`Conditional`][].

    **Arguments:**

    - `tree`: a model, a wrapper of models, a prior, ...
    - `condition`: of one event.

    **Returns:** the same; itself where nothing in it depends on the condition.

    **Raises:** `ValueError` without a condition, and for a law that is of other events than it says or not Gaussian.
    """

    def resolve(leaf: object) -> object:
        return _law_of(leaf, condition) if isinstance(leaf, Conditional) else leaf

    return jax.tree.map(resolve, tree, is_leaf=lambda leaf: isinstance(leaf, Conditional))


def row_of(tree: PyTree, shared: Condition, row: PyTree) -> tuple[PyTree, Condition]:
    """One row of a batch.

    **Arguments:**

    - `tree`: as of [`given`][].
    - `shared`, `row`: what `split_condition` gives, the latter of this row.

    **Returns:** the tree with the law of the row, and the condition of the row.
    """
    condition = condition_of(shared, row)
    return given(tree, condition), condition


def _law_of(prior: Conditional, condition: Condition) -> AbstractGaussianPrior:
    if condition is None:
        raise ValueError(_UNKNOWN)
    law = prior.law(condition)
    if not isinstance(law, AbstractGaussianPrior):
        raise ValueError(f"The law of prior.Conditional must be a Gaussian prior; got {type(law).__name__}.")
    check_prior(law, prior.shape, prior.dtype)
    return law


def check_range(name: str, prior: AbstractPrior, x: Batch, condition: Condition | Batched = None) -> None:
    """Raises `ValueError` for concrete events that leave the range of a singular prior by more than rounding.

    A model of it never reaches them, and its density does not count what is outside.

    **Arguments:**

    - `name`: of the events, for the message.
    - `prior`: the law of `x0`.
    - `x`: `(n, *event)`.
    - `condition`: one for all events, or `Batched`.
    """
    if is_traced(prior, x, condition) or not isinstance(prior, AbstractGaussianPrior) or prior.is_standard:
        return
    shared, rows = split_condition(condition)
    inside = jax.vmap(lambda x, row: row_of(prior, shared, row)[0].project(x))(x, rows)
    outside = jnp.max(jnp.abs(x - inside), initial=0)
    if outside > jnp.finfo(x.dtype).eps ** 0.5 * jnp.max(jnp.abs(x), initial=0):
        raise ValueError(
            f"{name} leaves the range of the singular prior {type(prior).__name__} by up to {float(outside):.3g}; "
            "centre it with prior.remove_centre, or use another prior."
        )
