"""Phrases of error messages for the expected and the received object."""

import inspect
import re
from typing import Any

import jax
import numpy as np

# Phrases that do not follow from the name of the class.
_PHRASES = {
    "SaveAt": "a diffrax.SaveAt such as diffrax.SaveAt(ts=jnp.linspace(0, 1, 11))",
    "AbstractModel": "a model such as Model(network, schedule, shape=...)",
    "AbstractDivergence": "a divergence such as Exact()",
    "AbstractLastStep": "a last step such as Tweedie()",
    "AbstractTimes": "a distribution of times",
    "AbstractUnitTimes": "a distribution of times on [0, 1]",
    "AbstractDiffusion": "a diffusion coefficient",
    "AbstractGuidance": "a guidance rule",
    "AbstractPosteriorMethod": "a posterior method such as TemperedSMC()",
    "AbstractDynamics": "a dynamics such as ProbabilityFlow()",
    "AbstractContinuousModel": "a model of continuous events",
    "AbstractCategoricalModel": "a model of categorical events",
    "AbstractProbes": "a distribution of probes",
}


def phrase(cls: type) -> str:
    """A phrase for the instances of a class, such as "a diffrax step size controller"."""
    if cls.__name__ in _PHRASES:
        return _PHRASES[cls.__name__]
    stem = cls.__name__.removeprefix("Abstract")
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).lower() if stem != cls.__name__ else stem
    words = f"diffrax {words}" if cls.__module__.startswith("diffrax") else words
    return f"{'an' if words[0] in 'aeiouAEIOU' else 'a'} {words}"


def described(value: Any) -> str:
    """A phrase for the received object."""
    if isinstance(value, type):
        try:
            parameters = inspect.signature(value).parameters.values()
            bare = all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
        except (TypeError, ValueError):
            bare = False
        return f"the class {value.__name__}: write {value.__name__}({'' if bare else '...'})"
    if isinstance(value, str):
        return f"the string {value!r}"
    if value is None or isinstance(value, bool | int | float | complex | np.number):
        return str(value)
    if isinstance(value, np.ndarray | jax.Array):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"an object of type {type(value).__name__}"


def shown(value: Any) -> str:
    """A number for a message: itself, or an array on one line."""
    return (
        np.array2string(np.asarray(value), threshold=6, separator=", ").replace("\n", "")
        if np.ndim(value)
        else str(value)
    )
