"""Draws overview.png, the figure of the README: a flow, its densities and a posterior, compared with closed forms."""

import pathlib

import diffrax as dfx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import flowrax as frx

jax.config.update("jax_enable_x64", True)
plt.rcParams["path.simplify"] = False
RING = jnp.stack([3 * jnp.cos(jnp.arange(8) * jnp.pi / 4), 3 * jnp.sin(jnp.arange(8) * jnp.pi / 4)], axis=1)
ORACLE = frx.oracle.GaussianMixture(jnp.ones(8), RING, jnp.stack([0.08 * jnp.eye(2)] * 8))
GREY, BLUE, RED = "0.75", "#1f5fa8", "#c2410c"


def density(axes: Axes, oracle: frx.oracle.GaussianMixture, color: str) -> None:
    """Contours of an oracle's density."""
    line = jnp.linspace(-4.5, 4.5, 200)
    x, y = jnp.meshgrid(line, line)
    values = jnp.exp(oracle.log_prob(jnp.stack([x, y], axis=-1)))
    axes.contour(line, line, values, levels=5, colors=color, linewidths=0.7)
    axes.set(aspect="equal", xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), xticks=[], yticks=[])


def flow(axes: Axes, model: frx.oracle.OracleModel) -> None:
    """Trajectories from noise to data."""
    times = jnp.linspace(0, 1, 60)
    draws = frx.sample(model, jax.random.key(0), 150, saveat=dfx.SaveAt(ts=times))
    assert draws.trajectory is not None
    density(axes, ORACLE, GREY)
    axes.plot(*np.asarray(draws.trajectory).transpose(2, 1, 0), color=BLUE, linewidth=0.6, alpha=0.5)
    axes.plot(*np.asarray(draws.trajectory)[:, 0].T, ".", color="0.5", markersize=3)
    axes.plot(*np.asarray(draws.x).T, ".", color=BLUE, markersize=4)
    axes.set_title("sample: noise (grey) to data (blue)")


def likelihood(axes: Axes, model: frx.oracle.OracleModel) -> None:
    """Errors of the log-density at three tolerances."""
    x = ORACLE.sample(jax.random.key(1), (1000,))
    exact = ORACLE.log_prob(x)
    for tolerance, shade in ((1e-3, 0.35), (1e-5, 0.65), (1e-7, 1.0)):
        answer = frx.log_prob(model, x, rtol=tolerance, atol=tolerance)
        error = np.sort(np.abs(np.asarray(answer.value - exact)))
        steps = float(answer.stats.num_steps.mean())
        label = f"tolerance {tolerance:g}: {steps:.0f} steps"
        axes.plot(error, np.linspace(0, 1, error.size), color=BLUE, alpha=shade, label=label)
    axes.set(xscale="log", xlabel="|log-density - closed form| (nats)", ylabel="share of 1,000 points")
    axes.set_title("log_prob: error of every point")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def posterior(axes: Axes, model: frx.oracle.OracleModel) -> None:
    """Draws given one noisy coordinate, compared with the exact posterior."""
    # Each coordinate of the ring has standard deviation 3 / sqrt(2).
    observation = frx.LinearGaussian(jnp.asarray([[1.0, 0.0]]), jnp.asarray([2.0]), 0.3)
    method = frx.ImportanceSampling(frx.PiGDM(data_std=2.1))
    draws = frx.posterior(model, observation, jax.random.key(2), 400, method=method)
    exact = ORACLE.posterior([[1.0, 0.0]], [2.0], [[0.09]])
    density(axes, exact, RED)
    axes.axvspan(1.7, 2.3, color=GREY, alpha=0.4, linewidth=0)
    size = 4000 * np.asarray(draws.weights)
    axes.scatter(*np.asarray(draws.x).T, s=size, color=BLUE, alpha=0.6, linewidths=0)
    evidence = float(ORACLE.log_evidence([[1.0, 0.0]], [2.0], [[0.09]]))
    axes.set_title("posterior given the horizontal coordinate")
    axes.set_xlabel(f"area: weight. log-evidence {draws.log_evidence:.2f}, exact {evidence:.2f}")


def main() -> None:
    """Writes the figure beside this file."""
    model = ORACLE.model(frx.Linear())
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    flow(axes[0], model)
    likelihood(axes[1], model)
    posterior(axes[2], model)
    figure.savefig(pathlib.Path(__file__).with_name("overview.png"), dpi=130)


if __name__ == "__main__":
    main()
