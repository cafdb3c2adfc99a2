r"""The permutation $\pi$ that minimises $\sum_i c(x_0^{\pi(i)}, x_1^i)$ in each block of a batch."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._typing import Array, Batch
from .base import AbstractHostCoupling

Cost = Callable[[Batch, Batch], Array]
"""`cost(x1, x0)`: the `(n, n)` costs of all pairs of two blocks."""


def _squared_distance(x1: Batch, x0: Batch) -> Array:
    """Up to a number for each row and one for each column, which change no assignment.

    So the squares are left out and both sets are centred: far from the origin they would cancel, digits and all.
    """
    rows, columns = (z.reshape(z.shape[0], -1) - jnp.mean(z, axis=0).reshape(1, -1) for z in (x1, x0))
    return -2 * rows @ columns.T


def _reduced(costs: Array) -> Array:
    # No assignment is worth more or less for it, but the augmenting paths are shorter: up to four times faster.
    costs = costs - jnp.min(costs, axis=-1, keepdims=True)
    return costs - jnp.min(costs, axis=-2, keepdims=True)


class ExactOT(AbstractHostCoupling):
    """Minibatch optimal transport: straighter paths, but no score.

    The batch is cut into blocks of consecutive rows (`fit` draws rows at random) and each block is assigned exactly,
    by the shortest augmenting paths of `scipy.optimize.linear_sum_assignment` on the host. A batch of 4,096 took
    one core 11 ms in the plane and 5 ms in 64 dimensions in blocks of 64, and 105 and 20 to 40 ms in blocks of 256.
    `fit` assigns on threads beside training, which hides it where the device leaves a core idle.

    ??? cite "Reference"

        ```bibtex
        @article{tong2024improving,
            author={Tong, Alexander and Fatras, Kilian and Malkin, Nikolay and Huguet, Guillaume and Zhang, Yanlei and
                Rector-Brooks, Jarrid and Wolf, Guy and Bengio, Yoshua},
            title={Improving and generalizing flow-based generative models with minibatch optimal transport},
            journal={Transactions on Machine Learning Research},
            year={2024},
        }
        ```
        ```bibtex
        @article{crouse2016implementing,
            author={Crouse, David F.},
            title={On implementing 2D rectangular assignment algorithms},
            journal={IEEE Transactions on Aerospace and Electronic Systems},
            volume={52},
            number={4},
            pages={1679--1696},
            year={2016},
        }
        ```
    """

    block_size: int = eqx.field(static=True)
    cost: Cost = eqx.field(static=True)
    independent: ClassVar[bool] = False

    def __init__(self, *, block_size: int = 256, cost: Cost | None = None) -> None:
        """**Arguments:**

        - `block_size`: rows assigned at once; the time of a block grows as its cube, and larger ones come closer to
            the transport of the laws.
        - `cost`: of all pairs, such as [`kabsch_cost`][]; the squared distance without.
        """
        if block_size < 2:
            raise ValueError(f"block_size={block_size} leaves nothing to choose; use at least 2.")
        self.block_size, self.cost = block_size, _squared_distance if cost is None else cost

    def costs(self, x0: Batch, x1: Batch) -> tuple[Array, ...]:
        """Those of the full blocks, `(k, size, size)`, and of what is left, `(1, rest, rest)`, where there is any."""
        n, size = x0.shape[0], min(self.block_size, x0.shape[0])
        full = n - n % size
        blocks = [z[:full].reshape(-1, size, *z.shape[1:]) for z in (x1, x0)]
        costs = _reduced(jax.vmap(self.cost)(*blocks))
        return (costs,) if full == n else (costs, _reduced(self.cost(x1[full:], x0[full:]))[None])

    def order(self, costs: tuple[np.ndarray, ...]) -> np.ndarray:
        # Costs a fifth of a second, which no one pays who only samples.
        from scipy.optimize import linear_sum_assignment

        orders, start = [], 0
        for block in (block for blocks in costs for block in blocks):
            orders.append(start + linear_sum_assignment(block)[1])
            start += len(block)
        return np.concatenate(orders).astype(np.int32)
