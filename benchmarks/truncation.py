"""The error in log-density from starting at N(0, sigma(0)^2) instead of the exact marginal at t = 0.

Prints |log p - closed form| over draws of a 25-component mixture in two dimensions, for each schedule, with the usual
Gaussian source and with the exact one, which shows the error of the solver alone. With r = alpha(0) / sigma(0) and data
x the mean error is at most r |E x| + r^2 E|x|^2, to second order. Run as `python benchmarks/truncation.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx

SCHEDULES = {
    "Linear": frx.Linear(),
    "Cosine": frx.Cosine(),
    "VariancePreserving": frx.VariancePreserving(),
    "SubVariancePreserving": frx.SubVariancePreserving(),
    "VarianceExploding": frx.VarianceExploding(),
    "EDM": frx.EDM(),
}
NUM_POINTS = 1000


def mixture():
    keys = jax.random.split(jax.random.key(0), 3)
    weights = jax.random.uniform(keys[0], (25,), minval=0.5, maxval=1.5)
    factors = jax.random.normal(keys[2], (25, 2, 2)) / 2
    covariances = factors @ factors.mT + 0.05 * jnp.eye(2)[None]
    return frx.oracle.GaussianMixture(weights, 3 * jax.random.normal(keys[1], (25, 2)), covariances)


def errors(oracle, schedule, source):
    key = jax.random.key(1)
    noise = schedule.sigma(1.0) * jax.random.normal(jax.random.fold_in(key, 1), (NUM_POINTS, 2))
    x = oracle.sample(key, (NUM_POINTS,)) + noise
    answer = frx.log_prob(oracle.model(schedule, source=source), x, rtol=1e-7, atol=1e-7)
    return np.abs(np.asarray(answer.value - oracle.marginal_log_prob(schedule, 1.0, x)))


def main():
    jax.config.update("jax_enable_x64", True)
    oracle = mixture()
    mean = jnp.linalg.norm(oracle.weights @ oracle.means)
    square = oracle.weights @ (jnp.trace(oracle.covariances, axis1=1, axis2=2) + jnp.sum(oracle.means**2, axis=1))
    print("| schedule | r | bound on the mean error | mean error | worst error | worst error of the solver alone |")
    print("|---|---|---|---|---|---|")
    for name, schedule in SCHEDULES.items():
        gaussian = errors(oracle, schedule, frx.prior.Gaussian((2,), std=schedule.sigma(0.0)))
        exact = errors(oracle, schedule, None)
        ratio = schedule.alpha(0.0) / schedule.sigma(0.0)
        bound = float(ratio * mean + ratio**2 * square)
        cells = (gaussian.mean(), gaussian.max(), exact.max())
        print(f"| {name} | {float(ratio):.4f} | {bound:.1e} | " + " | ".join(f"{cell:.1e}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
