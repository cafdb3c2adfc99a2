"""What is refused of chains of classes, and what is said of it."""

import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.discrete import D3PM, Hybrid, Ordinal, PolynomialMasking, Transitions
from flowrax.schedule import DiscreteSchedule

NUM = 4
MATRICES = np.full((7, NUM, NUM), 1 / NUM)
RATES = DiscreteSchedule(np.linspace(0.1, 0.8, 7))


def looked_up(index):
    return jnp.asarray(MATRICES, float)[index]


NOISE = Transitions(MATRICES)
CHAIN = D3PM(RATES, frx.discrete.UniformCategorical((2,), NUM))
X = jnp.asarray([0, 1])
WRONG = {
    "The rows of each matrix must be probabilities: the matrix of index 0": lambda: Transitions(2 * MATRICES),
    "must be (T, K, K); got (4, 4)": lambda: Transitions(MATRICES[0]),
    "must be (5, K, K); got (7, 4, 4)": lambda: Transitions(MATRICES, 5),
    "num_steps is missing": lambda: Transitions(looked_up),
    "num_classes must be at least 2; got 1": lambda: Ordinal(RATES, 1),
    "The prior has 3 classes but Transitions has 4": lambda: D3PM(NOISE, frx.discrete.UniformCategorical((2,), 3)),
    "pass discrete.Categorical with probability one": lambda: frx.CategoricalModel(
        looked_up, NOISE, prior=frx.discrete.Masked((2,), NUM), dtype=np.float32
    ),
    "Transitions is not a mixture of data and noise": lambda: NOISE.schedule,
    "index=7 is not one of 0, ..., 6": lambda: CHAIN.marginal(7, X),
    "to=3 must be below index=3": lambda: CHAIN.posterior(3, X, X, to=3),
    "pass either key=, or uniform=": lambda: CHAIN.interpolate(3, X),
    "uniform has shape (3,) but (2,) is expected": lambda: CHAIN.interpolate(3, X, uniform=jnp.zeros(3)),
    "mask has shape (3,) but (2,) is expected": lambda: CHAIN.loss(jnp.zeros((2, NUM)), 3, X, X, mask=jnp.ones(3)),
    "exponent must be at least 1; got 0.5": lambda: PolynomialMasking(0.5),
    "num_steps must be at least 1; got 0": lambda: Hybrid(0),
    "scale must not be negative; got -1": lambda: Hybrid(5, -1.0),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be(text):
    with pytest.raises(ValueError) as raised:
        WRONG[text]()
    assert text in str(raised.value)
