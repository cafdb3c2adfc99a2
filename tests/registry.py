"""Every final class of the package by kind, found by introspection, and one instance of each.

A class that can be built without arguments needs no entry here; any other has one in `BUILT`.
"""

import importlib
import inspect
import pkgutil

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

import flowrax as frx
from flowrax import dynamics as dyn
from flowrax.model.target import AbstractTarget
from flowrax.schedule import AbstractSchedule, Scales, Singularities

for _module in pkgutil.walk_packages(frx.__path__, "flowrax."):
    importlib.import_module(_module.name)

# One instance, or several by name, of what cannot be built without arguments.
BUILT = {
    "Tabulated": lambda: frx.schedule.Tabulated(frx.schedule.ddpm_linear(1000)),
    "LearnedSNR": lambda: frx.schedule.LearnedSNR(jax.random.key(0)),
    "ResolutionShift": lambda: frx.schedule.ResolutionShift(frx.Linear(), 3.0),
    "Langevin": lambda: dyn.Langevin(0.5, 0.5),
    "UnderdampedLangevin": lambda: dyn.UnderdampedLangevin(0.5, 1.0),
    "PredictorCorrector": lambda: dyn.PredictorCorrector(frx.ProbabilityFlow()),
    "StochasticFlow": lambda: dyn.StochasticFlow(dyn.Sigma()),
    "Churn": lambda: frx.Churn(0.1),
    "Restart": lambda: frx.Restart(0.4, 0.7, num_steps=20),
    "Scaled": lambda: dyn.Scaled(dyn.Sigma(), 0.5),
    "Capped": lambda: dyn.Capped(dyn.SBDM(), 2.0),
    "SigmoidPower": lambda: dyn.SigmoidPower(dyn.Sigma(), 1.0),
    "Custom": lambda: dyn.Custom(lambda t: 0.3 + 0.2 * t),
    "Reversible": lambda: frx.Reversible(dfx.Tsit5()),
}

# Not a route to the marginals of their own, and where they are tested instead.
ELSEWHERE = {
    "EncoderDecoder": "a schedule of paths with a latent alone: test_interpolant",
    "LatentNoise": "a target of paths with a latent alone: test_interpolant",
    "TemperedFlow": "changes the marginals: test_tempered",
    "Jump": "needs a network of average velocity: test_mean_flow",
    "_Churned": "the solver of Churn",
    "_Restarted": "the solver of Restart",
    "Corrected": "the solver of PredictorCorrector",
    "Trapezoidal": "of a second term: test_control_variate",
}


def is_singular(schedule, quantity, t):
    """Whether a schedule says that the method of this name is infinite at an end point."""
    forward = quantity in ("drift", "diffusion", "diffusion_squared")
    return t in getattr(schedule.singularities, "forward_sde" if forward else quantity, ())


# Classes of these kinds have no common test. Each is named, with its room because names such as `Gaussian` recur, under
# the file that tests it.
TESTED_KINDS = (
    frx.loss.AbstractLoss,
    frx.loss.AbstractWeight,
    frx.guidance.AbstractGuidance,
    frx.inverse.AbstractKernel,
    frx.inverse.AbstractPosteriorMethod,
    frx.observation.AbstractObservation,
    frx.observation.AbstractOperator,
    frx.discrete.AbstractSampler,
    frx.prior.AbstractPrior,
    frx.coupling.AbstractCoupling,
    frx.divergence.AbstractDivergence,
)
TESTED = {
    "test_loss": "loss.Matching loss.EDMWeight loss.Likelihood loss.MinSNR loss.SNR",
    "test_reductions": "loss.EquilibriumMatching loss.MeasuredIn loss.Truncated loss.Variational",
    "test_reference_torchebm_losses": "loss.TimeWeight",
    "test_reference_moco_vdm_losses": "loss.UniformWeight",
    "test_interpolant": "loss.AntitheticMatching",
    "test_mean_flow": "loss.MeanFlowMatching",
    "test_representation": "loss.RepresentationAlignment",
    "test_categorical_bound": "discrete.CategoricalBound",
    "test_categorical_use": "joint.JointMatching",
    "test_generalised_kl": "discrete.GeneralisedKL",
    "test_d3pm": "discrete.Ancestral discrete.Categorical discrete.Hybrid",
    "test_masked": "discrete.Blocks discrete.CrossEntropy discrete.FirstHitting discrete.Masked discrete.PathPlanning "
    "discrete.Remasking discrete.Unmask",
    "test_discrete_flow": "discrete.Euler discrete.MixtureJump discrete.CorrectorSampler discrete.Purity "
    "discrete.TauLeaping",
    "test_joint": "joint.JointSampler",
    "test_sites": "discrete.UniformCategorical",
    "test_categorical_oracle": "discrete.Markov discrete.Sites",
    "test_categorical": "discrete.Joint",
    "test_prior": "prior.Empirical prior.Gaussian prior.Harmonic",
    "test_prior_model": "prior.CentredGaussian prior.CorrelatedGaussian",
    "test_point_clouds": "prior.Conditional",
    "test_oracle": "oracle.Gaussian oracle.GaussianMixture",
    "test_pairs": "coupling.EquivariantOT coupling.Greedy coupling.Independent coupling.Kabsch coupling.Reflow",
    "test_coupling": "coupling.ExactOT",
    "test_plans": "coupling.Plan coupling.Sinkhorn coupling.UnbalancedSinkhorn",
    "test_convergence": "coupling.LowRankSinkhorn",
    "test_semidiscrete": "coupling.Semidiscrete",
    "test_guidance": "guidance.DPS guidance.MMPS guidance.TMPD inverse.TwistedSMC",
    "test_noise_space_mcmc": "inverse.EllipticalSlice inverse.HMC inverse.MALA inverse.NUTS inverse.NoiseSpaceMCMC",
    "test_tempered_smc": "inverse.TemperedSMC",
    "test_posterior": "inverse.Conjugate inverse.ImportanceSampling",
    "test_observation": "observation.Laplace observation.LinearGaussian observation.NonlinearGaussian "
    "observation.Poisson observation.StudentT",
    "test_operators": "observation.Blur observation.Downsample observation.FourierSubsample observation.Mask "
    "observation.Projection",
    "test_control_variate": "divergence.ControlVariate",
    "test_divergence": "divergence.Exact divergence.HutchPP divergence.Hutchinson divergence.XTrace",
}
TESTED = {name: test for test, names in TESTED.items() for name in names.split()}
# Classes that tests do not name, with the text by which a test builds them.
BUILT_BY = {
    "loss.Product": ("test_reference_torchebm_losses", "Likelihood() * "),
    "guidance.PiGDM": ("test_posterior", "frx.posterior("),
    "observation._Decorrelated": ("test_observation", "noise_covariance="),
    "prior.Blurred": ("test_density", "blurred"),
    "prior.ScaledPrior": ("test_warp", "warp("),
    "oracle.Mapped": ("test_prior_model", "prior="),
    "joint.JointPrior": ("test_joint", "frx.JointModel("),
    "coupling.MeasuredPairs": ("test_interpolant", "frx.fit(model, x1, jax.random.key(1), x0=x0"),
}


def room_name(cls):
    """The name of a class in its room, such as `prior.Gaussian`."""
    return f"{cls.__module__.split('.')[1]}.{cls.__name__}"


def finals(base):
    """The final classes below `base` that the package itself defines."""
    found = []
    for cls in base.__subclasses__():
        own = cls.__module__.startswith("flowrax.")
        named = cls.__name__.lstrip("_").startswith("Abstract")
        found += ([cls] if own and not named and not inspect.isabstract(cls) else []) + finals(cls)
    return sorted(set(found), key=lambda cls: cls.__qualname__)


def instances(base):
    """By name, one instance of each final class that is not tested elsewhere."""
    classes = [cls for cls in finals(base) if cls.__name__ not in ELSEWHERE]
    return {cls.__name__: BUILT[cls.__name__]() if cls.__name__ in BUILT else cls() for cls in classes}


SCHEDULES, TARGETS = instances(AbstractSchedule), instances(AbstractTarget)
COEFFICIENTS = instances(dyn.AbstractDiffusion)
DYNAMICS = instances(frx.dynamics.base.AbstractDynamics)
_OWN = instances(dfx.AbstractSolver)

# Solver and its order on the flow.
FLOW_SOLVERS = {
    "Euler": (dfx.Euler(), 1),
    "Heun": (dfx.Heun(), 2),
    "ReversibleHeun": (dfx.ReversibleHeun(), 2),
    "Dopri5": (dfx.Dopri5(), 5),
    "Tsit5": (dfx.Tsit5(), 5),
    **{name: (solver, solver.order(None)) for name, solver in _OWN.items()},
}
# Solvers of the reverse SDE.
NOISE_SOLVERS = {
    "Euler-Maruyama": dfx.Euler(),
    "Heun": dfx.Heun(),
    "SEA": dfx.SEA(),
    "SRA1": dfx.SRA1(),
    "ShARK": dfx.ShARK(),
    **{name: _OWN[name] for name in ("DDIM", "SEEDS", "DPMSolverPP")},
}


def some(names, turn, count=3):
    """`count` of the names for a test's `turn`: those after the ones of the turn before, over and over."""
    names = list(names)
    return tuple(names[(turn * count + i) % len(names)] for i in range(min(count, len(names))))


def _switch(index, functions, like, *arguments):
    """One of the functions by a number that is traced, so that all of them share one compilation."""
    branches = [lambda *a, f=f: jnp.asarray(f(*a)).astype(like.dtype) for f in functions]
    return jax.lax.switch(index, branches, *arguments)


class Chosen(AbstractSchedule):
    """One of the named `SCHEDULES` by a number that is traced."""

    index: jax.Array
    names: tuple[str, ...] = eqx.field(static=True)
    singularities = Singularities()

    def __init__(self, name, names=tuple(SCHEDULES)):
        """By its name, or by its number where that is traced."""
        self.index = jnp.asarray(names.index(name) if isinstance(name, str) else name, jnp.int32)
        self.names = names

    def _at(self, name, t):
        t = jnp.asarray(t)
        return _switch(self.index, [getattr(SCHEDULES[schedule], name) for schedule in self.names], t, t)

    def scales(self, t, dtype=None):
        """All in one switch: what compiles is a third of what five switches are."""
        t = jnp.asarray(t)
        record = jax.lax.switch(self.index, [lambda t, s=s: SCHEDULES[s].scales(t, t.dtype) for s in self.names], t)
        return record if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), record)

    def alpha(self, t):
        return self._at("alpha", t)

    def sigma(self, t):
        return self._at("sigma", t)

    def alpha_rate(self, t):
        return self._at("alpha_rate", t)

    def sigma_rate(self, t):
        return self._at("sigma_rate", t)

    def variance_rate(self, t):
        return self._at("variance_rate", t)

    def log_snr(self, t):
        return self._at("log_snr", t)

    def time_at(self, log_snr):
        return self._at("time_at", log_snr)


class Fixed(AbstractSchedule):
    """Some schedule's scales at one time, which are traced: what converts predictions sees nothing else of it."""

    record: Scales
    singularities = Singularities()

    def scales(self, t, dtype=None):
        return self.record if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), self.record)

    def alpha(self, t):
        return self.record.alpha

    def sigma(self, t):
        return self.record.sigma

    def alpha_rate(self, t):
        return self.record.alpha_rate

    def sigma_rate(self, t):
        return self.record.sigma_rate

    def variance_rate(self, t):
        return self.record.variance_rate

    def log_snr(self, t):
        return 2 * jnp.log(self.record.alpha / self.record.sigma)

    def time_at(self, log_snr):
        raise NotImplementedError


class ChosenTarget(AbstractTarget):
    """One of `TARGETS` by a number that is traced."""

    index: jax.Array

    def _at(self, name, *arguments):
        return _switch(self.index, [getattr(t, name) for t in TARGETS.values()], arguments[0], *arguments)

    def from_pair(self, data, noise, s):
        return self._at("from_pair", data, noise, s)

    def data(self, output, x, s):
        return self._at("data", output, x, s)

    def noise(self, output, x, s):
        return self._at("noise", output, x, s)

    def velocity(self, output, x, s):
        return self._at("velocity", output, x, s)

    def gain(self, s):
        return _switch(self.index, [t.gain for t in TARGETS.values()], s.alpha, s)

    def singular_ends(self, schedule):
        return False, False


# Each coefficient under two schedules, and each schedule with at least two coefficients.
PAIRS = tuple((name, s) for i, name in enumerate(COEFFICIENTS) for s in some(SCHEDULES, i, 2))


class ChosenCoefficient(dyn.AbstractDiffusion):
    """The coefficient of one of `PAIRS` under its schedule, by a number that is traced."""

    index: jax.Array

    def __call__(self, schedule, t):
        t = jnp.asarray(t)
        return _switch(self.index, [lambda t, w=w, s=s: COEFFICIENTS[w](SCHEDULES[s], t) for w, s in PAIRS], t, t)

    def is_singular_at_start(self, schedule):
        return False


class ExactNetwork(eqx.Module):
    """The exact output of an oracle in a target, as a network."""

    oracle: frx.oracle.Gaussian
    schedule: AbstractSchedule
    target: AbstractTarget

    def __call__(self, t, x, condition):
        s = self.schedule.scales(t, x.dtype)
        _, data, score = self.oracle.posterior_terms(s.alpha, s.sigma, x)
        return self.target.from_pair(data, -s.sigma * score, s)
