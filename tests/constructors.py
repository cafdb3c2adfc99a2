"""The arguments with which every public class is constructed, found by introspection.

`BY_NAME` has a value for each required argument that several classes share, and `BY_CLASS` what a single class needs.
"""

import importlib
import inspect
import pkgutil
import types
import typing

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx
from flowrax import discrete, dynamics as dyn

for _module in pkgutil.walk_packages(frx.__path__, "flowrax."):
    importlib.import_module(_module.name)

KEY = jax.random.key(0)
LINEAR = frx.Linear()
TABLE = frx.schedule.ddpm_linear(10)
ORACLE = frx.oracle.Gaussian(np.zeros(2, np.float32), np.eye(2, dtype=np.float32))
MODEL = ORACLE.model(LINEAR)
NETWORK = frx.nn.MLP((2,), key=KEY, width=4, depth=1)
MASKED, UNIFORM = discrete.Masked((3,), 4), discrete.UniformCategorical((3,), 4)
TOKENS = frx.CategoricalModel(lambda t, x, c: jax.nn.one_hot(x, 4), discrete.LogLinearMasking(), prior=MASKED)
OBSERVATION = frx.LinearGaussian([[1.0, 0.0]], [0.5], 0.1)

BY_NAME = {
    "schedule": LINEAR,
    "table": TABLE,
    "key": KEY,
    "shape": (2,),
    "network": NETWORK,
    "model": MODEL,
    "observation": OBSERVATION,
    "guidance": frx.guidance.PiGDM(),
    "diffusion": dyn.Sigma(),
    "times": frx.times.Uniform(),
    "time": 0.5,
    "duration": 1.0,
    "weight": 1.5,
    "num_classes": 4,
    "num_steps": 10,
    "function": jnp.sin,
    "log_likelihood": lambda t, x, c: jnp.sum(x),
    "eta": 0.1,
    "t_min": 0.2,
    "t_max": 0.6,
}
BY_CLASS = {
    "coupling.Reflow": dict(flow=lambda x0, key, condition: x0),
    "coupling.Plan": dict(plan=lambda costs: jnp.ones_like(costs)),
    "coupling.Semidiscrete": dict(data=jnp.ones((3, 2)), prior=frx.prior.Gaussian((2,))),
    "coupling.ConditionalCost": dict(by=lambda c: c),
    "density.DensityEstimator": dict(model=(2,), key=KEY),
    "density.Encoder": dict(example=jnp.zeros((), jnp.int32), labels=3, dtype=jnp.float32),
    "discrete.D3PM": dict(noise=TABLE, prior=discrete.UniformCategorical((3,), 4)),
    "discrete.WithEvidence": dict(network=lambda t, x, c: x, path=discrete.LogLinearMasking(), prior=UNIFORM),
    "discrete.ClassifierFreeCategorical": dict(model=TOKENS, weight=1.5, null=0),
    "discrete.CategoricalModel": dict(network=lambda t, x, c: x, interpolant=discrete.LogLinearMasking(), prior=MASKED),
    "discrete.Joint": dict(table=np.full((2, 2), 0.25)),
    "discrete.Markov": dict(initial=[0.5, 0.5], transition=[[0.5, 0.5], [0.5, 0.5]], length=3),
    "discrete.Sites": dict(probabilities=[[0.5, 0.5]]),
    "discrete.Mixture": dict(schedule=discrete.LogLinearMasking()),
    "discrete.Transitions": dict(matrices=np.stack([np.eye(2)] * 3)),
    "discrete.Categorical": dict(shape=(3,), probabilities=[0.5, 0.5]),
    "discrete.Blocks": dict(inner=discrete.Ancestral(), block=2),
    "discrete.CorrectorSampler": dict(predictor=discrete.Euler()),
    "discrete.Loop": dict(inner=discrete.CappedRemasking(0.1)),
    "discrete.Remasking": dict(remasking=discrete.CappedRemasking(0.1)),
    "divergence.ControlVariate": dict(divergence=frx.Hutchinson(8)),
    "dynamics.Churn": dict(gamma=0.1),
    "dynamics.Restart": dict(t_min=0.2, t_max=0.6),
    "dynamics.PredictorCorrector": dict(predictor=frx.ProbabilityFlow()),
    "dynamics.Scaled": dict(diffusion=dyn.Sigma(), factor=0.5),
    "dynamics.Capped": dict(diffusion=dyn.Sigma(), maximum=2.0),
    "dynamics.SigmoidPower": dict(diffusion=dyn.Sigma(), power=1.0),
    "dynamics.TemperedFlow": dict(temperature=0.5),
    "guidance.ClassifierFree": dict(model=MODEL, weight=1.5, null=0),
    "interpolant.Latent": dict(schedule=LINEAR, gamma=frx.interpolant.Brownian()),
    "joint.IndependentTimes": dict(parts=2),
    "loss.ConditionDropout": dict(probability=0.1),
    "loss.MeanFlowGuidance": dict(scale=1.5),
    "loss.MeasuredIn": dict(measured=frx.Velocity()),
    "loss.Product": dict(first=frx.loss.SNR(), second=frx.loss.SNR()),
    "model.Model": dict(network=NETWORK, interpolant=LINEAR, shape=(2,)),
    "nn.DiT": dict(shape=(1, 4, 4), key=KEY, width=8, depth=1, num_heads=2),
    "nn.UNet": dict(shape=(1, 4, 4), key=KEY, width=8, num_blocks=1, num_heads=2),
    "nn.Transformer": dict(shape=(4,), num_tokens=3, key=KEY, width=8, depth=1, num_heads=2),
    "observation.LinearGaussian": dict(operator=[[1.0, 0.0]], y=[0.5], noise_std=0.1),
    "observation.NonlinearGaussian": dict(function=jnp.sin, y=[0.5, 1.0], noise_std=0.1),
    "observation.Mask": dict(kept=[True, False]),
    "observation.Blur": dict(kernel=[0.2, 0.6, 0.2], shape=(4,)),
    "observation.Downsample": dict(factor=2, shape=(4,)),
    "observation.Projection": dict(axis=0, shape=(2, 3)),
    "observation.FourierSubsample": dict(kept=[True, False, True, False], shape=(4,)),
    "observation.Poisson": dict(rate_function=jnp.exp, y=[2, 0]),
    "observation.Laplace": dict(function=jnp.sin, y=[0.5, 1.0], scale=0.1),
    "observation.StudentT": dict(function=jnp.sin, y=[0.5, 1.0], scale=0.1, df=4.0),
    "oracle.Gaussian": dict(mean=np.zeros(2), covariance=np.eye(2)),
    "oracle.GaussianMixture": dict(weights=[0.5, 0.5], means=np.zeros((2, 2)), covariances=np.stack([np.eye(2)] * 2)),
    "oracle.OracleModel": dict(oracle=ORACLE, schedule=LINEAR),
    "prior.Conditional": dict(make_prior=lambda c: frx.prior.Gaussian((2,)), shape=(2,)),
    "prior.CentredGaussian": dict(shape=(3, 2)),
    "prior.CorrelatedGaussian": dict(covariance=np.eye(2)),
    "prior.Empirical": dict(data=np.zeros((4, 2))),
    "prior.Harmonic": dict(length=4),
    "prior.Blurred": dict(prior=frx.prior.Gaussian((2,)), std=0.5),
    "prior.ScaledPrior": dict(prior=frx.prior.Gaussian((2,)), factor=0.5),
    "schedule.DiscreteSchedule": dict(rates=[0.1, 0.2]),
    "schedule.ResolutionShift": dict(schedule=LINEAR, shift=3.0),
    "stepper.ReversibleAdjoint": {},
    "stepper.Reversible": dict(solver=dfx.Tsit5()),
    "times.MixtureTimes": dict(first=frx.times.Uniform(), second=frx.times.Uniform(), fraction=0.5),
    "times.Shifted": dict(times=frx.times.Uniform(), shift=2.0),
    "verb.MeanStep": dict(dynamics=frx.ReverseSDE()),
    "verb.DiscreteReconstruction": dict(low=0.0, high=1.0, levels=4),
}

# Records, classes that the package builds itself from checked values, and why the others are left out.
INTERNAL = {
    "_base diagnostics engine train": "results and parts of the engine",
    "coupling.DensePlan coupling.LowRankPlan coupling.PotentialPlan": "made by the couplings",
    "coupling.Convergence coupling.Pairs coupling.PotentialsRecord "
    "density.DensityFit density.Standardiser discrete.SamplerStep discrete.SamplerSpec": "records",
    "discrete.ExactDenoiser discrete.BlockLogitModel discrete.BlockModel": "models that samplers and oracles build",
    "dynamics.JumpTerm dynamics.Corrected guidance.GuidedPrediction guidance.MixedPrediction "
    "guidance.Denoised guidance.GaussianLikelihood": "made by dynamics",
    "joint.FixedOutput joint.JointPaths joint.JointPrior joint.PartView joint.JointModel": "test_ranges names them",
    "loss.WithFeatures model.BridgePrediction model.AffinePrediction model.LatentPrediction": "records",
    "model.WarpedModel model.WarpedPrediction model.Bridge": "made by warp; a bridge checks its two models",
    "nn.Block nn.Context nn.FourierFeatures nn.Projected nn.Projector": "parts of networks",
    "oracle.OraclePrediction oracle.Component oracle.Coordinates oracle.Mapped": "made by oracles",
    "prior.Spectrum schedule.Scales": "records",
    "stepper.AcceptedSteps stepper.March stepper.GridBrownianPath stepper.BrownianTree stepper.History": "engine",
    "stepper.Problem stepper.Step stepper.Kernel stepper.Trapezoidal stepper.SemilinearTerm": "engine",
    "stepper.LeapfrogMidpointReversal stepper.ReversibleHeunReversal stepper.RungeKuttaReversal": "engine",
    "stepper.SemiImplicitEulerReversal stepper.Adapted stepper.CheckedController": "engine",
    "verb.Augmented verb.Deviation verb.DensitySolve verb.ErrorOptions verb.ModelEquation verb.SolveOptions": "verbs",
    "inverse.NoiseProblem inverse.ModelProblem inverse.PosteriorDraws inverse.Reference inverse.Target inverse.Chain "
    "verb.NoiseFlow density.OfStandardised": "made by posterior and its methods",
    "verb.Start verb.PosteriorSamples verb.Drawn verb.VariationalBound": "records",
    "nn.EnergyGradient nn.AverageVelocity nn.Timeless": "networks around another",
}


def _classes(base):
    for cls in base.__subclasses__():
        yield cls
        yield from _classes(cls)


def name_of(cls):
    return f"{cls.__module__.split('.')[1]}.{cls.__name__}"


def public_classes():
    """By name, every class that users construct."""
    internal = {name for names in INTERNAL for name in names.split()}
    found = {}
    for cls in set(_classes(eqx.Module)):
        room, plain = cls.__module__.split(".")[:2], cls.__name__
        if room[0] == "flowrax" and not plain.startswith(("_", "Abstract")):
            if room[1] not in internal and name_of(cls) not in internal:
                found[name_of(cls)] = cls
    return dict(sorted(found.items()))


def arguments(name, cls):
    """Arguments with which a class can be constructed."""
    given = dict(BY_CLASS.get(name, {}))
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in given:
            given[parameter.name] = BY_NAME[parameter.name]
    return given


def options_of(annotation):
    """The members of a union, or the annotation itself."""
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return set(typing.get_args(annotation)) if is_union else {annotation}


def hints_of(cls):
    """By argument of the constructor, its annotation."""
    init = cls.__init__
    names = inspect.signature(cls).parameters
    # A dataclass keeps the annotations of its fields on the class.
    own = typing.get_type_hints(cls) | typing.get_type_hints(inspect.unwrap(init))
    return {name: own.get(name) for name in names}
