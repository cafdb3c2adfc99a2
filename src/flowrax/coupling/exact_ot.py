r"""The permutation $\pi$ that minimises $\sum_i \lVert x_0^{\pi(i)} - x_1^i \rVert^2$ in a batch."""

from typing import ClassVar

import jax.numpy as jnp
import optax

from .._typing import Batch, KeyArray
from .base import AbstractCoupling


class ExactOT(AbstractCoupling):
    """Minibatch optimal transport by optax's Hungarian algorithm: straighter paths, but no score.

    The cost grows as the cube of the batch size; a few hundred rows are cheap.

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
    """

    independent: ClassVar[bool] = False

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch) -> Batch:
        noise, data = x0.reshape(x0.shape[0], -1), x1.reshape(x1.shape[0], -1)
        # |a - b|^2 up to terms that no permutation changes.
        rows, columns = optax.assignment.hungarian_algorithm(-data @ noise.T)
        return x0[jnp.zeros_like(columns).at[rows].set(columns)]
