r"""Whether probing $J - J_{\mathrm{ref}}$, whose reference has a known trace, beats plain probes at equal cost.

Probes are fixed along a solve, so the error of a log-density is that of one trace, of $M = \int (J - J_{\mathrm{ref}})
\mathrm{d}t$ on the trajectory; for signs its variance is $\sum_{i < j} (M_{ij} + M_{ji})^2 / k$. The reference is the
whole Jacobian at the start of each step, held for the step, or interpolated to that of the next. It costs d products
per step, beside 6 k for the stages of Dopri5. Networks are trained for a short while on 8 x 8 digits, and on the same
digits blown up to 28 x 28 with noise. Prints deviations in nats; run by `python -m benchmarks.control_variate`.
"""

import sys

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx
from benchmarks.trace_estimators import digits, trained

STAGES, PARTS = 6, 4


def enlarged():
    small = digits().reshape(-1, 8, 8)
    large = jax.image.resize(small, (len(small), 28, 28), "linear").reshape(-1, 784)
    return np.asarray(large + 0.1 * jax.random.normal(jax.random.key(9), large.shape))


def jacobians(model, num_steps, num_points):
    """On a grid of `PARTS` per step, along draws: `(points, times, d, d)`."""
    times = jnp.linspace(0, 1, num_steps * PARTS + 1)
    draws = frx.sample(model, jax.random.key(2), num_points, rtol=1e-3, atol=1e-3, saveat=dfx.SaveAt(ts=times))

    def along(path):
        return jax.lax.map(
            lambda tx: jax.jacrev(lambda x: model.predict(tx[0], x, None).velocity)(tx[1]), (times, path)
        )

    assert draws.trajectory is not None
    return (np.asarray(jax.jit(along)(path)) for path in draws.trajectory)


def variance(matrix):
    both = matrix + matrix.T
    return 0.5 * np.sum((both - np.diag(np.diag(both))) ** 2)


def variances(path, num_steps):
    """Of one probe along a trajectory: plain, reference held, reference interpolated."""
    step = 1 / num_steps
    starts = path[::PARTS]
    # The trapezoidal rule within each step.
    weights = np.full(PARTS + 1, 1.0)
    weights[[0, -1]] = 0.5
    weights *= step / PARTS
    whole = sum(np.tensordot(weights, path[PARTS * k : PARTS * (k + 1) + 1], 1) for k in range(num_steps))
    held = whole - step * starts[:-1].sum(0)
    between = whole - step * (starts[:-1] + starts[1:]).sum(0) / 2
    return [variance(matrix) for matrix in (whole, held, between)]


def table(size, data, num_train, num_points):
    model = trained(data, num_train)
    for num_steps in (8, 16):
        plain, held, between = np.mean(
            [variances(p, num_steps) for p in jacobians(model, num_steps, num_points)], axis=0
        )
        for num_probes in (1, 4, 16):
            equal = num_probes + size / STAGES
            cells = [f"{(v / k) ** 0.5:.2f}" for v, k in ((plain, equal), (held, num_probes), (between, num_probes))]
            print(f"| {size} | {num_steps} | {num_probes} | {equal:.0f} | " + " | ".join(cells) + " |", flush=True)


def main():
    print("| d | steps | probes beside the reference | plain probes, equal cost | plain | held | interpolated |")
    print("|---|---|---|---|---|---|---|")
    short = 4 if "--quick" in sys.argv else 1
    table(64, digits(), 1500 // short, 16 // short)
    table(784, enlarged(), 1500 // short, 8 // short)


if __name__ == "__main__":
    main()
