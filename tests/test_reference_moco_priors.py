"""Priors against values computed by bionemo-moco's continuous ones."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowrax import prior as pr

REFERENCE = dict(np.load(pathlib.Path(__file__).parent / "reference" / "moco_priors.npz"))
EXACT = dict(rtol=0, atol=1e-10)


def chain_covariance(prior):
    """Of the beads, from the images of unit vectors."""
    unit = jnp.eye(prior.shape[0])[:, :, None]
    root = np.asarray(jax.vmap(prior.root)(unit))[:, :, 0]
    return root.T @ root


@pytest.mark.parametrize(
    ("name", "length", "distance"), [("n4", 4, 3.8), ("n8", 8, 3.8), ("n16", 16, 3.8), ("n6_d1", 6, 1.0)]
)
def test_covariance_of_the_chain(name, length, distance, x64):
    prior = pr.Harmonic(length, 1, distance=distance)
    assert np.allclose(chain_covariance(prior), REFERENCE[f"harmonic/{name}/cov"], **EXACT)
    if f"harmonic/{name}/Dinv" in REFERENCE:
        assert np.allclose(prior.spectrum.eigenvalues, REFERENCE[f"harmonic/{name}/Dinv"], **EXACT)


def test_draw_of_the_chain_from_given_noise(x64):
    """Theirs is `P sqrt(Dinv) eps`, with eigenvectors of either sign."""
    prior, vectors = pr.Harmonic(8), REFERENCE["harmonic/n8/P"]
    signs = np.sign(np.sum(np.asarray(prior.spectrum.eigenvectors) * vectors, axis=0))
    noise = signs[:, None] * REFERENCE["harmonic/n8/fixed_noise"][0]
    assert np.allclose(prior.root(jnp.asarray(noise)), REFERENCE["harmonic/n8/fixed_noise_sample"][0], **EXACT)


def test_their_million_draws_have_our_covariance(x64):
    """Entries within 5 standard errors of those of Gaussian draws."""
    covariance = chain_covariance(pr.Harmonic(8, 1))
    variance = np.diagonal(covariance)
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / 1e6)
    assert np.all(np.abs(REFERENCE["harmonic/n8/empirical_cov_1e6"] - covariance) <= 5 * error)
    assert np.all(np.abs(REFERENCE["harmonic/n8/empirical_mean_1e6"]) <= 5 * np.sqrt(variance / 1e6))


@pytest.mark.parametrize("masked", ["com/masked", "clean/mask_center"])
def test_masked_centre(masked, x64):
    """The same at nodes that count; where theirs leaves minus the centre at the others, ours leaves zero."""
    x, mask = REFERENCE["com/x"], REFERENCE["com/mask"]
    got, theirs = np.asarray(pr.remove_centre(jnp.asarray(x), mask)), REFERENCE[masked]
    assert np.allclose(got[mask == 1], theirs[mask == 1], **EXACT)
    assert np.all(got[mask == 0] == 0)
    assert np.allclose(got.sum(-2), 0, **EXACT)


def test_centre_without_a_mask(x64):
    x = jnp.asarray(REFERENCE["com/x"])
    for name in ("com/nomask", "clean/center"):
        assert np.allclose(pr.remove_centre(x), REFERENCE[name], **EXACT)


def test_gaussian_from_given_noise(x64):
    """Mean and standard deviation of theirs, and padding by a standard deviation of zero."""
    x, mask = REFERENCE["com/x"], REFERENCE["com/mask"]
    prior = pr.Gaussian(x.shape[1:], mean=0.5, std=2.0)
    assert np.allclose(jax.vmap(prior.transform)(jnp.asarray(x)), REFERENCE["gauss/mean0p5_std2"], **EXACT)
    for row, counts, want in zip(x, mask, REFERENCE["clean/mask"], strict=True):
        padded = pr.Gaussian(row.shape, std=np.broadcast_to(counts[:, None], row.shape))
        assert np.allclose(padded.transform(jnp.asarray(row)), want, **EXACT)


def test_centred_gaussian_from_given_noise(x64):
    """Of mean 0.5 and standard deviation 2: everywhere theirs, since theirs is masked after it is centred."""
    rows = zip(REFERENCE["com/x"], REFERENCE["com/mask"], REFERENCE["gauss/center_mask"], strict=True)
    for row, counts, want in rows:
        prior = pr.CentredGaussian(row.shape, mean=0.5, std=2.0, mask=counts)
        assert np.allclose(prior.transform(jnp.asarray(row)), want, **EXACT)
