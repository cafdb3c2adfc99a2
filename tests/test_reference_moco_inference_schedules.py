"""Grids against bionemo-moco's lists of times. Theirs holds where the steps start; ours has the end as well."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowrax.times import discretize, entropic_grid, index_grid, linear_grid, log_grid, pad_grid, power_grid

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_inference_schedules.npz")
N = 12

# Their smallest time is raised to the power as well, and under the logarithm it is a clamp.
GRIDS = {
    "linear": lambda n, t_min=0.0: linear_grid(n, t_min),
    "power2": lambda n, t_min=0.0: power_grid(n, 2.0, t_min**2),
    "power0p5": lambda n, t_min=0.0: power_grid(n, 0.5, t_min**0.5),
    "log": lambda n, t_min=0.0: jnp.maximum(log_grid(n), t_min),
    "log_m3": lambda n, t_min=0.0: jnp.maximum(log_grid(n, -3.0), t_min),
}


def starts_and_steps(grid, direction, inclusive):
    """Theirs of ours: with an inclusive end the last time is the end, and its step has length zero."""
    grid = pad_grid(grid, padding=1) if inclusive else grid
    flipped = 1 - grid if direction == "diffusion" else grid
    return flipped[:-1], discretize(flipped)


@pytest.mark.parametrize("t_min", [0.0, 0.1])
@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("direction", ["unified", "diffusion"])
@pytest.mark.parametrize("name", GRIDS)
def test_times_and_steps(name, direction, inclusive, t_min, x64):
    ts, dts = starts_and_steps(GRIDS[name](N - inclusive, t_min), direction, inclusive)
    group = f"{name}/{direction}/inc{int(inclusive)}/min{'0.1' if t_min else '0'}"
    assert ts.shape == (N,)
    assert np.max(np.abs(ts - REFERENCE[f"{group}/ts"])) <= 1e-10
    assert np.max(np.abs(dts - REFERENCE[f"{group}/dts"])) <= 1e-10


@pytest.mark.parametrize("direction", ["unified", "diffusion"])
@pytest.mark.parametrize(("padding", "dilation"), [(2, 0), (0, 1), (0, 2), (2, 1)])
@pytest.mark.parametrize("name", ["linear", "power2", "log"])
def test_padding_and_dilation(name, padding, dilation, direction, x64):
    """In total as many steps as asked for: theirs divides by the dilation, not by one more, for the logarithm."""
    total = N
    base = (total - padding) // (dilation + 1)
    ts, dts = starts_and_steps(pad_grid(GRIDS[name](base), padding, dilation), direction, False)
    assert ts.shape == (total,)
    group = f"{name}/{direction}/pad{padding}/dil{dilation}"
    if name == "log" and dilation:
        assert len(REFERENCE[f"{group}/ts"]) != total
        base = (total - padding) // dilation
        ts, dts = starts_and_steps(pad_grid(GRIDS[name](base), padding, dilation), direction, False)
    assert np.max(np.abs(ts - REFERENCE[f"{group}/ts"])) <= 1e-10
    assert np.max(np.abs(dts - REFERENCE[f"{group}/dts"])) <= 1e-10


@pytest.mark.parametrize("direction", ["unified", "diffusion"])
@pytest.mark.parametrize(("padding", "dilation"), [(0, 0), (2, 0), (0, 1), (0, 2), (2, 1)])
def test_indices(padding, dilation, direction):
    flip = (lambda i: i) if direction == "diffusion" else (lambda i: i.max() - i)
    group = f"discrete/{direction}" if not padding + dilation else f"discrete/{direction}/pad{padding}/dil{dilation}"
    # The same fault in theirs: so many different indices are in its list, where N steps were asked for.
    base = (N - padding) // max(dilation, 1)
    got = np.asarray(index_grid(base, padding=padding, dilation=dilation))
    assert got.dtype == np.int32
    assert (flip(got) == REFERENCE[f"{group}/ts"]).all()
    right = (N - padding) // (dilation + 1)
    assert index_grid(right, padding=padding, dilation=dilation).shape == (N,)


def test_indices_of_a_longer_chain():
    assert index_grid(5, 1000).tolist() == [999, 749, 500, 250, 0]
    assert index_grid(1, 1000).tolist() == [999]


def test_discrete_steps():
    assert np.allclose(REFERENCE["discrete/diffusion/dts"], 1 / len(index_grid(N)))


def test_examples_of_the_documentation(x64):
    assert np.max(np.abs(log_grid(100)[:-1] - REFERENCE["log/docs100"])) <= 1e-10
    assert np.max(np.abs(linear_grid(100)[:-1] - REFERENCE["linear/100/unified"])) <= 1e-10


ENDS = jnp.ones((4, 1)), 2 * jnp.ones((4, 1))


@pytest.mark.parametrize("direction", ["unified", "diffusion"])
@pytest.mark.parametrize("inclusive", [False, True])
def test_entropic(inclusive, direction, key):
    """The integral of 3 t^2 + 1/2 is even on ours; theirs sums 101 values with equal weights, in float32."""
    steps = 10 - inclusive
    grid = entropic_grid(lambda t, x: (3 * t**2 + 0.5) * x, *ENDS, key, steps)
    assert np.allclose(grid**3 + grid / 2, 1.5 * np.linspace(0, 1, steps + 1), atol=2e-4)
    ts, dts = starts_and_steps(grid, direction, inclusive)
    # One of their values too many, of 101, each at most 3.5 / 1.5 times the mean.
    assert np.max(np.abs(ts - REFERENCE[f"entropic/{direction}/inc{int(inclusive)}/ts"])) <= 0.01
    assert np.max(np.abs(dts - REFERENCE[f"entropic/{direction}/inc{int(inclusive)}/dts"])) <= 0.01


def test_entropic_of_a_contracting_field(key):
    """Mirrored, the same steps; theirs are all at the end."""
    forward = entropic_grid(lambda t, x: (3 * t**2 + 0.5) * x, *ENDS, key, 10)
    contracting = entropic_grid(lambda t, x: -(3 * t**2 + 0.5) * x, *ENDS, key, 10)
    assert jax.numpy.allclose(forward, contracting)
    assert (REFERENCE["entropic_contracting/unified/ts"] == 1).all()
