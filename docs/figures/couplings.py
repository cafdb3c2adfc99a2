"""Draws couplings.png: the pairs of four couplings between normal noise and a mixture of five Gaussians."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection

import flowrax as frx
from flowrax.coupling import Pairs, Sinkhorn

NUMBER = 64
ANGLES = 2 * jnp.pi * jnp.arange(5) / 5 + jnp.pi / 2
CENTRES = 4 * jnp.stack([jnp.cos(ANGLES), jnp.sin(ANGLES)], axis=1)
ORACLE = frx.oracle.GaussianMixture(jnp.ones(5), CENTRES, jnp.stack([0.05 * jnp.eye(2)] * 5))


def pairs() -> dict[str, Pairs]:
    """The pairs of the same noise under each coupling, by title."""
    key = jax.random.key(0)
    data = ORACLE.sample(jax.random.key(1), (1_000,))
    x0, x1 = jax.random.normal(key, (NUMBER, 2)), data[:NUMBER]
    semidiscrete = frx.fit_semidiscrete(data, key, num_steps=2_000, progress=False)
    minibatch = {
        "Independent()": frx.Independent(),
        f"ExactOT(), {NUMBER} rows": frx.ExactOT(block_size=NUMBER),
        "Sinkhorn(0.05)": Sinkhorn(0.05),
    }
    found = {title: eqx.filter_jit(coupling)(key, x0, x1) for title, coupling in minibatch.items()}
    return found | {"Semidiscrete, 1,000 rows": semidiscrete.pairs(key, x0)}


def main() -> None:
    """One panel for each coupling, with the mean squared length of the lines."""
    found = pairs()
    figure, axes = plt.subplots(1, len(found), figsize=(12, 3.5), layout="constrained")
    for panel, (title, pair) in zip(axes, found.items(), strict=True):
        x0, x1 = np.asarray(pair.x0), np.asarray(pair.x1)
        cost = np.mean(np.sum((x1 - x0) ** 2, axis=1))
        panel.add_collection(LineCollection(list(np.stack([x0, x1], axis=1)), color="0.7", linewidth=0.7, zorder=0))
        panel.plot(*x0.T, "o", color="0.35", markersize=3, label="noise")
        panel.plot(*x1.T, "o", color="#1f5fa8", markersize=3, label="data")
        panel.set(aspect="equal", xlim=(-5, 5), ylim=(-5, 5), xticks=[], yticks=[])
        panel.set_title(f"{title}\nmean squared distance {cost:.1f}", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main()
