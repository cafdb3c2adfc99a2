"""The flow: network, training, samples, likelihoods and posteriors, each from one call to flowrax."""

import hashlib
import json
import pathlib
import time
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

import files
import flowrax as frx
from data import LEVELS, SIZE, Digits


class Settings(NamedTuple):
    """The settings of the network and its training, chosen on the validation images."""

    width: int = 256
    depth: int = 4
    dropout: float = 0.3
    num_steps: int = 5000
    batch_size: int = 256
    learning_rate: float = 1e-3
    time_mean: float = 0.8
    time_std: float = 1.5
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    validate_every: int = 250
    patience: int = 8
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of the checkpoint's files, which differs between settings."""
        return f"flow-{hashlib.sha256(repr(self).encode()).hexdigest()[:8]}"


QUICK = Settings(width=128, depth=3, dropout=0.1, num_steps=1500)


class Training(NamedTuple):
    """The result of `train`."""

    fit: frx.FitResult
    seconds: float
    """Wall time of the run in which training ended, which may be an earlier run."""
    interrupted: bool
    """Whether that run resumed from a checkpoint, so that `seconds` covers its part only."""
    reused: bool
    """Whether training had finished in an earlier run."""


class Likelihoods(NamedTuple):
    """Log-likelihoods of x in nats per image, `(n,)`: exact, and estimated with standard errors."""

    exact: np.ndarray
    estimate: np.ndarray
    standard_error: np.ndarray
    num_probes: int
    mean_steps: float


class Posteriors(NamedTuple):
    """Draws of whole digits given noisy upper halves, in units of x."""

    truth: np.ndarray
    """`(digits, 64)`."""
    observed: np.ndarray
    """`(digits, 32)`."""
    draws: np.ndarray
    """`(digits, draws, 64)`."""
    residual: np.ndarray
    """`(digits, draws, 32)`, in units of the noise."""


def untrained(settings: Settings) -> frx.Model:
    """A model whose velocity is a residual perceptron, from noise to standardised digits."""
    network = frx.nn.ResidualMLP(
        (SIZE,),
        key=jax.random.key(settings.seed),
        width=settings.width,
        depth=settings.depth,
        dropout=settings.dropout,
    )
    return frx.Model(network, frx.Cosine(), frx.Velocity(), shape=(SIZE,))


def train(digits: Digits, settings: Settings, folder: pathlib.Path, *, progress: bool = True) -> Training:
    """Fits the flow; resumes from the checkpoint in `folder`, or reuses its weights if training has finished."""

    def augment(key: jax.Array, levels: jax.Array) -> jax.Array:
        x = (levels + jax.random.uniform(key, levels.shape, levels.dtype)) / LEVELS
        return (x - digits.mean) / digits.std

    rate = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, 200, settings.num_steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=settings.weight_decay)
    )
    checkpoint, note = folder / f"{settings.name}.checkpoint", folder / f"{settings.name}.json"
    started = checkpoint.exists()
    reused = started and note.exists()
    start = time.perf_counter()
    fit = frx.fit(
        untrained(settings),
        digits.train,
        jax.random.key(settings.seed + 1),
        # More times near the data, where resolving the narrow cells of the grey levels gains most of the likelihood.
        loss=frx.Matching(times=frx.times.LogitNormal(settings.time_mean, settings.time_std)),
        optimizer=optimizer,
        num_steps=settings.num_steps,
        batch_size=settings.batch_size,
        validation=digits.validation,
        validate_every=settings.validate_every,
        patience=settings.patience,
        ema_decay=settings.ema_decay,
        augment=augment,
        checkpoint=checkpoint,
        progress=progress,
    )
    if not reused:
        files.write_text(note, json.dumps({"seconds": time.perf_counter() - start, "interrupted": started}))
    return Training(fit, **json.loads(note.read_text()), reused=reused)


def draw(model: frx.Model, digits: Digits, num_samples: int) -> tuple[np.ndarray, float]:
    """Samples of x, `(num_samples, 64)`, and the mean number of adaptive steps."""
    samples = frx.sample(model, jax.random.key(10), num_samples)
    return np.asarray(digits.restore(samples.x)), float(samples.stats.num_steps.mean())


def paths(model: frx.Model, digits: Digits, num_paths: int, times: np.ndarray) -> np.ndarray:
    """The states along trajectories from noise to data in units of x, `(num_paths, times, 64)`."""
    saveat = diffrax.SaveAt(ts=jnp.asarray(times, model.dtype))
    samples = frx.sample(model, jax.random.key(11), num_paths, saveat=saveat)
    assert samples.trajectory is not None
    return np.asarray(digits.restore(samples.trajectory))


def validation_log_likelihood(model: frx.Model, digits: Digits, x: np.ndarray) -> float:
    """The mean exact log-likelihood in nats per image, by which the settings were chosen."""
    value = frx.log_prob(model, digits.standardise(x), rtol=1e-4, atol=1e-4).value
    return float(digits.log_density_of_x(np.asarray(value)).mean())


def likelihoods(model: frx.Model, digits: Digits, x: np.ndarray, num_probes: int) -> Likelihoods:
    """The log-likelihoods of the rows of `x`: exact, and by random probes with their standard errors."""
    z = digits.standardise(x)
    exact = frx.log_prob(model, z, divergence=frx.Exact(chunk_size=SIZE))
    estimate = frx.log_prob(model, z, divergence=frx.Hutchinson(num_probes), key=jax.random.key(12))
    return Likelihoods(
        exact=digits.log_density_of_x(np.asarray(exact.value)),
        estimate=digits.log_density_of_x(np.asarray(estimate.value)),
        standard_error=np.asarray(estimate.standard_error),
        num_probes=num_probes,
        mean_steps=float(exact.stats.num_steps.mean()),
    )


def posteriors(
    model: frx.Model, digits: Digits, x: np.ndarray, *, num_draws: int, noise_std: float, grid: int = 200
) -> Posteriors:
    """Observes the upper half of each row of `x` with noise, and draws whole digits given the observation."""
    upper = SIZE // 2
    noise = np.random.default_rng(13).standard_normal((len(x), upper), dtype=np.float32)
    observed = x[:, :upper] + noise_std * noise
    # PiGDM's likelihood score is exact only as sigma goes to 0; four times the usual diffusion corrects earlier errors.
    dynamics = frx.ReverseSDE(frx.dynamics.SBDM(4.0))
    # The model is in units of z, the observation in units of x = mean + std z.
    operator = np.eye(upper, SIZE, dtype=np.float32) * digits.std
    draws, residual = [], []
    for index, y in enumerate(observed):
        observation = frx.LinearGaussian(operator, y - digits.mean[:upper], noise_std)
        answer = frx.posterior(
            model,
            observation,
            jax.random.key(1000 + index),
            num_draws,
            method=frx.PiGDM(),
            dynamics=dynamics,
            grid=grid,
        )
        draws.append(np.asarray(digits.restore(answer.x)))
        residual.append(np.asarray(answer.residual))
    return Posteriors(x, observed, np.stack(draws), np.stack(residual))
