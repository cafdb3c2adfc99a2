"""What the engine must put up with: wrapped solvers, failures, precisions, jit, meters, several devices."""

import os
import subprocess
import sys

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from laws import SCHEDULES, mixture
from solving import KEY, draw, problem


@pytest.mark.accuracy
@pytest.mark.parametrize(
    "solver",
    [frx.Reversible(dfx.Dopri5()), dfx.HalfSolver(dfx.Dopri5()), dfx.HalfSolver(dfx.Heun())],
    ids=["Reversible(Dopri5)", "HalfSolver(Dopri5)", "HalfSolver(Heun)"],
)
def test_wrapped_solvers_are_themselves(solver, x64):
    """Not what they wrap: the same steps as by diffrax, on a grid and adaptively."""
    for stepping in (dict(grid=7), dict(rtol=1e-6, atol=1e-6)):
        ours, want = (
            draw(problem(3), solver=solver, adjoint=adjoint, **stepping)
            for adjoint in (None, dfx.RecursiveCheckpointAdjoint())
        )
        assert np.allclose(ours.x, want.x, rtol=0, atol=1e-12)
        assert np.array_equal(ours.stats.num_steps, want.stats.num_steps)


@pytest.mark.accuracy
def test_a_corrected_runge_kutta_predictor_adapts(x64):
    model = mixture(3, 2, jnp.float64).model(SCHEDULES["vp"])
    dynamics = frx.PredictorCorrector(frx.ProbabilityFlow(), snr=1e-4)
    options = dict(dynamics=dynamics, solver=dfx.Dopri5(), rtol=1e-6, atol=1e-6)
    corrected = frx.sample(model, KEY, 5, max_steps=400, **options)
    assert np.allclose(corrected.x, frx.sample(model, KEY, 5).x, rtol=0, atol=1e-2)


@pytest.mark.parametrize("ts", [[-1.0, 0.5], [0.5, 3.0], [0.5, 0.2]])
def test_times_that_cannot_be_kept_are_refused(ts, x64):
    with pytest.raises(ValueError, match=r"^saveat's ts must be increasing and within this solve's times, 0 to 1\.$"):
        draw(problem(2), saveat=dfx.SaveAt(ts=ts))
    interval = frx.ReverseSDE(t_min=0.1)
    model = mixture(3, 2).model(SCHEDULES["vp"])
    with pytest.raises(ValueError, match=r"0\.1 to 1\.$"):
        frx.sample(model, KEY, 2, dynamics=interval, grid=3, saveat=dfx.SaveAt(ts=[0.0, 0.5]))


class Diverging(eqx.Module):
    """Exponential growth, that of the fourth power beyond 5."""

    rate: jax.Array

    def __call__(self, t, x, condition):
        return self.rate * jnp.where(x > 5, jnp.exp(x**4), x)


def test_a_nan_on_a_grid_spoils_no_gradient_but_its_own():
    model = lambda w: frx.Model(Diverging(w), frx.Linear(), shape=(1,))  # noqa: E731
    x0 = jnp.asarray([[1.0], [9.0], [0.5]])

    def total(w):
        answer = frx.sample(model(w), KEY, 3, x0=x0, grid=5, solver=dfx.Euler(), throw=False)
        return jnp.sum(jnp.where(jnp.isnan(answer.x), 0, answer.x))

    # x(1) = x0 (1 + w / 5)^5.
    assert np.isclose(jax.grad(total)(jnp.asarray(0.5)), 1.5 * 1.1**4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("stepping", [dict(grid=8, solver=dfx.Euler()), dict()], ids=["grid", "adaptive"])
def test_low_precision_models_are_stepped_in_that_of_time(stepping, dtype):
    """A network of constant velocity, exact but for the rounding of its own output."""
    model = frx.Model(lambda t, x, c: jnp.full_like(x, 2), frx.Linear(), shape=(2,), dtype=dtype)
    x0 = jnp.asarray([[1.0, 2.0], [0.5, -1.0]], dtype)
    answer = frx.sample(model, KEY, 2, x0=x0, **stepping)
    assert answer.x.dtype == jnp.float32
    assert np.allclose(answer.x, np.asarray(x0, np.float32) + 2, rtol=1e-5)


@pytest.mark.accuracy
def test_a_grid_within_jit_runs_the_right_way(x64):
    model = mixture(3, 2, jnp.float64).model(SCHEDULES["linear"])
    x = mixture(3, 2, jnp.float64).sample(KEY, (4,))
    times = jnp.linspace(0, 1, 41)
    within = jax.jit(lambda x: frx.log_prob(model, x, grid=times).value)(x)
    assert np.allclose(within, frx.log_prob(model, x, grid=40).value, rtol=0, atol=1e-10)


def test_singular_velocities_are_named():
    model = frx.Model(lambda t, x, c: 1 / jnp.abs(t - 0.5) ** 1.5 + 0 * x, frx.Linear(), shape=(1,), dtype=np.float32)
    with pytest.raises(
        frx.SolveError, match="^sample: 1 of 1 solves failed: in 1 the error of the smallest possible step"
    ):
        frx.sample(model, KEY, 1, x0=np.float32([[0.0]]))


class Meter(dfx.AbstractProgressMeter):
    """Writes down what it is told."""

    seen: list = eqx.field(static=True)

    def init(self):
        return jnp.zeros(())

    def step(self, state, progress):
        jax.debug.callback(lambda p: self.seen.append(float(p)), progress)
        return state

    def close(self, state):
        return None


@pytest.mark.parametrize("stepping", [dict(grid=5), dict(lanes=2)], ids=["grid", "adaptive"])
def test_progress_rises_to_one(stepping, x64):
    seen = []
    draw(problem(), progress=Meter(seen), **stepping)
    jax.effects_barrier()
    assert len(seen) >= 5 and max(seen) == 1 and min(seen) >= 0


ON_DEVICES = """
import equinox as eqx
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import flowrax as frx
jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((8,), ("samples",))
oracle = frx.oracle.GaussianMixture([0.3, 0.7], [[-2.0, 0.0], [1.0, 1.0]], jnp.stack([0.2 * jnp.eye(2)] * 2))
model, key = oracle.model(frx.Linear()), jax.random.key(0)
x0 = jax.random.normal(key, (32, 2))
split = jax.device_put(x0, NamedSharding(mesh, PartitionSpec("samples")))
one, eight = (frx.sample(model, key, 32, x0=x, with_log_prob=True) for x in (x0, split))
assert len(eight.x.sharding.device_set) == 8
assert np.allclose(one.x, eight.x, rtol=0, atol=1e-9)
assert np.allclose(one.log_prob, eight.log_prob, rtol=0, atol=1e-9)
assert np.array_equal(one.stats.num_steps, eight.stats.num_steps)
mean = lambda o, x: jnp.sum(jnp.sin(frx.sample(o.model(frx.Linear()), key, 32, x0=x).x))
one, eight = (eqx.filter_grad(mean)(oracle, x) for x in (x0, split))
gaps = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), one, eight)
assert max(jax.tree.leaves(gaps)) <= 1e-10
print("agree")
"""


@pytest.mark.accuracy
def test_one_device_and_eight_agree(tmp_path):
    """Each of eight devices solves its own samples, and shared parameters have one gradient.

    `test_testing` has stochastic dynamics, random divergences and conditions on one device and on eight.
    """
    script = tmp_path / "devices.py"
    script.write_text(ON_DEVICES)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert ran.stdout.strip() == "agree", ran.stderr[-2000:]
