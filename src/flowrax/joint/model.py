r"""Models of events with several parts, continuous and categorical, such as the positions and types of atoms.

One network takes all parts as input, and every part has its own path, prior and prediction. A step updates each part
while the other parts keep their values at the start of the step. This adds an error of first order in the step to the
errors of the parts' own solvers (Campbell et al. 2024).
"""

from collections.abc import Callable, Mapping
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_instance, check_interval, check_names, time_dtype
from .._base.random import as_threefry
from .._base.typing import Array, Condition, DType, KeyArray, Network, PyTree, Scalar
from ..coupling import Independent
from ..discrete import even_times
from ..discrete.base import AbstractSampledModel, AbstractSampler, SamplerStep
from ..discrete.categorical_model import CategoricalModel
from ..dynamics import Churn, ProbabilityFlow, Restart
from ..dynamics.base import AbstractDynamics
from ..engine import evaluations_per_step
from ..model.network import AbstractNetwork, call_network
from ..model.preconditioner import Unscaled
from ..model.trained import Model, network_dtype
from ..prior import AbstractPrior
from ..stepper import GridBrownianPath, levy_area_of

Part = Model | CategoricalModel


class SharedNetwork(AbstractNetwork):
    """A placeholder for the network of a part; the part uses the shared network of its [`JointModel`][].

    Raises `ValueError` when called.
    """

    def __call__(self, t: Scalar, x: PyTree, condition: Condition = None, *, key: KeyArray | None = None) -> Any:
        raise ValueError(
            "SharedNetwork() is a placeholder for the network of a part; call the network of the JointModel."
        )


class FixedOutput(AbstractNetwork):
    """A network that returns a fixed output: the part's share of one evaluation of the shared network."""

    output: Array

    def __call__(self, t: Scalar, x: PyTree, condition: Condition = None, *, key: KeyArray | None = None) -> Any:
        return self.output


class PartView(AbstractNetwork):
    """The shared network as the network of one part, with the other parts held fixed."""

    network: Network
    name: str = eqx.field(static=True)
    separate_times: bool = eqx.field(static=True)
    times: Any
    others: dict[str, Array]

    def __call__(self, t: Scalar, x: PyTree, condition: Condition = None, *, key: KeyArray | None = None) -> Any:
        times = {**self.times, self.name: t} if self.separate_times else t
        return call_network(self.network, times, {**self.others, self.name: x}, condition, key=key)[self.name]


class JointPrior(AbstractPrior):
    """The product of the priors of the parts, which are independent."""

    parts: dict[str, AbstractPrior]
    """The prior of each part, by name."""

    def __init__(self, parts: Mapping[str, AbstractPrior]):
        self.parts = dict(parts)

    @property
    def shape(self) -> Any:
        return {name: part.shape for name, part in self.parts.items()}

    @property
    def dtype(self) -> Any:
        return {name: part.dtype for name, part in self.parts.items()}

    @property
    def rank(self) -> Any:
        """The sum of the parts' ranks."""
        return sum(part.rank for part in self.parts.values())

    def draw(self, key: KeyArray) -> dict[str, Array]:
        keys = jax.random.split(as_threefry(key), len(self.parts))
        return {name: part.draw(k) for (name, part), k in zip(sorted(self.parts.items()), keys, strict=True)}

    def log_density(self, x: dict[str, Array]) -> Array:
        """The sum of the parts' log-densities, a scalar in nats."""
        return sum((part.log_density(x[name]) for name, part in self.parts.items()), jnp.zeros(()))


class JointPaths(eqx.Module):
    """The paths of the parts, by name."""

    parts: dict[str, Any]

    def noise(self, key: KeyArray, x0: dict[str, Array]) -> dict[str, PyTree]:
        """The randomness of each path: a draw of its prior and any further noise."""
        keys = jax.random.split(as_threefry(key), len(self.parts))
        return {name: path.noise(k, x0[name]) for (name, path), k in zip(sorted(self.parts.items()), keys, strict=True)}


class JointModel(AbstractSampledModel):
    """A model of events that are dictionaries of parts, with one network shared by all parts.

    **Reference:** [@campbell2024generative].
    """

    network: Network
    parts: dict[str, Part]
    coupling: Independent
    separate_times: bool = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(self, network: Network, parts: Mapping[str, Part], *, separate_times: bool = False):
        """**Arguments:**

        - `network`: `network(t, x, condition)` for one event `x`, a dictionary of the parts' arrays. It returns a
            dictionary of outputs, each of the kind the part's own network would return: the shape of the part, or its
            logits.
        - `parts`: a [`Model`][] or [`CategoricalModel`][] for each name, with `SharedNetwork()` as its network. Raises
            `ValueError` for a part that has a preconditioner or a coupling other than `Independent()`.
        - `separate_times`: whether `t` is a dictionary too, with a time for each part. Such a model is trained on all
            combinations of times, and can therefore sample any part conditioned on any others. Default: False.
        """
        if not isinstance(parts, Mapping) or not parts:
            raise ValueError("parts must be a dictionary of at least one Model or CategoricalModel by name.")
        for name, part in parts.items():
            check_instance(f"parts[{name!r}]", part, Part)
        self.network, self.parts, self.coupling = network, dict(parts), Independent()
        self.separate_times = separate_times
        for name, part in self.parts.items():
            if isinstance(part, Model) and not isinstance(part.preconditioner, Unscaled):
                raise ValueError(f"Part {name} has a preconditioner; parts share one network, so scale within it.")
            if not part.coupling.independent:
                raise ValueError(f"Part {name} has a coupling; the parts of a JointModel need coupling=Independent().")
        self.dtype = time_dtype(network_dtype(network))
        self.t_min = min(part.t_min for part in self.parts.values())
        self.t_max = max(part.t_max for part in self.parts.values())
        check_interval(self.t_min, self.t_max)

    @property
    def prior(self) -> JointPrior:
        """The prior of all parts."""
        return JointPrior({name: part.prior for name, part in self.parts.items()})

    @property
    def source(self) -> JointPrior:
        return JointPrior({name: part.source for name, part in self.parts.items()})

    @property
    def interpolant(self) -> JointPaths:
        """The paths of all parts."""
        return JointPaths({name: part.interpolant for name, part in self.parts.items()})

    @property
    def default_sampler(self) -> "JointSampler":
        return JointSampler()

    def events(self, name: str, x: PyTree, size: int | None = None) -> dict[str, Array]:
        """A batch of events by part; raises `ValueError` unless all parts are present with the same batch size."""
        if not isinstance(x, Mapping) or set(x) != set(self.parts):
            got = f"with {sorted(map(str, x))}" if isinstance(x, Mapping) else f"of type {type(x).__name__}"
            raise ValueError(f"{name} must be a dictionary of the parts {sorted(self.parts)}; got one {got}.")
        rows = {part: self.parts[part].events(f"{name}[{part!r}]", value, size) for part, value in x.items()}
        if len({len(value) for value in rows.values()}) != 1:
            raise ValueError(f"The parts of {name} have different batch sizes.")
        return rows

    def times_of(self, t: Mapping[str, Scalar]) -> Any:
        """The time argument of the network: all times if it takes separate times, otherwise the shared time."""
        check_names("t", t, self.parts)
        return dict(t) if self.separate_times else t[sorted(t)[0]]

    def outputs(
        self, t: Mapping[str, Scalar], x: dict[str, Array], condition: Condition = None, *, key: KeyArray | None = None
    ) -> dict[str, Array]:
        """The outputs of all parts from one evaluation of the network; raises `ValueError` if parts are missing."""
        said = call_network(self.network, self.times_of(t), x, condition, key=key)
        if not isinstance(said, Mapping) or set(said) != set(self.parts):
            got = sorted(said) if isinstance(said, Mapping) else type(said).__name__
            raise ValueError(
                f"The network returned {got}; it must return a dictionary of the parts {sorted(self.parts)}."
            )
        return dict(said)

    def part_from_output(self, name: str, outputs: Mapping[str, Array]) -> Part:
        """One part as a model whose prediction is fixed to its entry in `outputs`."""
        return eqx.tree_at(lambda m: m.network, self.parts[name], FixedOutput(outputs[name]))

    def part_view(self, name: str, t: Mapping[str, Scalar], x: dict[str, Array]) -> Part:
        """One part as a model of its own, with the other parts fixed to their values in `x` at the times `t`."""
        check_names("name", [name], self.parts)
        network = PartView(self.network, name, self.separate_times, dict(t), x)
        return eqx.tree_at(lambda m: m.network, self.parts[name], network)


def _default(part: Part) -> AbstractDynamics | AbstractSampler:
    return part.default_sampler if isinstance(part, CategoricalModel) else ProbabilityFlow()


class JointSampler(AbstractSampler, metaclass=Checked):
    """Advances all parts by one step, each by its own dynamics or sampler, given the others at the start of the step.

    By default continuous parts take an Euler step of the probability flow and categorical parts an ancestral step; the
    network is then evaluated once per step.
    """

    dynamics: dict[str, AbstractDynamics | AbstractSampler] = eqx.field(default_factory=dict)
    """The dynamics or sampler of each part that does not use its default. A dynamics must run in the time of the path,
    and [`Churn`][] and [`Restart`][], which go back in time, need a model with separate times."""
    solver: dfx.AbstractSolver = dfx.Euler()
    """The solver of the continuous parts, as `sample` takes it for their dynamics. It starts anew at every step, so
    that a multistep solver has no previous steps to use. Default: `diffrax.Euler()`."""
    clocks: dict[str, Callable[[Array], Array]] = eqx.field(default_factory=dict)
    """The time of a part as a non-decreasing function of the time of the steps; needs a model with separate times. A
    clock that stays at 1 keeps the part as given in `x0`, so that the other parts are drawn conditioned on it."""

    def times(self, model: JointModel, grid: Any) -> Array:
        if self.clocks and not model.separate_times:
            raise ValueError(
                "clocks need a model with separate times; this JointModel was made with separate_times=False."
            )
        for name, given in (("dynamics", self.dynamics), ("clocks", self.clocks)):
            check_names(name, given, model.parts)
        for name, part in model.parts.items():
            how = self.dynamics.get(name, _default(part))
            if isinstance(how, AbstractDynamics):
                self._check_dynamics(name, how, model)
        times = even_times(model, grid)
        for name, how in self.dynamics.items():
            own = how.times(model.parts[name], len(times) - 1) if isinstance(how, AbstractSampler) else times
            if len(own) != len(times):
                raise ValueError(
                    f"The sampler of part {name} takes {len(own) - 1} steps, but grid has {len(times) - 1} steps."
                )
        return times

    def _check_dynamics(self, name: str, dynamics: AbstractDynamics, model: JointModel) -> None:
        """Raises `ValueError` for a dynamics that cannot move one part while the others keep their time."""
        kind, part = type(dynamics).__name__, model.parts[name]
        if not isinstance(part, Model):
            raise ValueError(f"dynamics[{name!r}]={kind} moves continuous events, but the part is categorical.")
        ends = dynamics.interval(part)
        if tuple(dynamics.path_time(part, t) for t in ends) != ends:
            raise ValueError(f"dynamics[{name!r}]={kind} does not run in the time of the path, as all parts do.")
        if isinstance(dynamics, Churn | Restart) and not model.separate_times:
            raise ValueError(
                f"dynamics[{name!r}]={kind} goes back in time, where the other parts do not follow; it needs a model "
                "with separate_times=True."
            )
        dynamics.stepper(self.solver)

    @property
    def num_evaluations_per_step(self) -> int:
        """The evaluations of the network per step of the part that needs the most."""
        return max([self._evaluations(ProbabilityFlow()), *map(self._evaluations, self.dynamics.values())])

    def _evaluations(self, how: AbstractDynamics | AbstractSampler) -> int:
        """The evaluations of the network in one step of a part."""
        sampled = isinstance(how, AbstractSampler)
        return how.num_evaluations_per_step if sampled else evaluations_per_step(how.stepper(self.solver))

    def step(
        self, model: JointModel, step: SamplerStep, x: dict[str, Array], condition: Condition, key: KeyArray
    ) -> dict[str, Array]:
        updates = {name: self.dynamics.get(name, _default(part)) for name, part in model.parts.items()}
        ends = {name: self._ends(name, part, updates[name], step) for name, part in model.parts.items()}
        starts = {name: start for name, (start, _) in ends.items()}
        outputs = model.outputs(starts, x, condition)
        after = {}
        for number, name in enumerate(sorted(model.parts)):
            how = updates[name]
            once = self._evaluations(how) == 1
            alone = model.part_from_output(name, outputs) if once else model.part_view(name, starts, x)
            start, end = ends[name]
            first = None if step.first is None else step.first[name]
            shared = None if step.key is None else jax.random.fold_in(step.key, number)
            own = SamplerStep(step.index, step.count, start, end, first, shared)
            act = how.step if isinstance(how, AbstractSampler) else self._integrate(how)
            moved = act(alone, own, x[name], condition, jax.random.fold_in(key, number))
            after[name] = jnp.where(end > start, moved, x[name])
        return after

    def _ends(
        self, name: str, part: Part, how: AbstractDynamics | AbstractSampler, step: SamplerStep
    ) -> tuple[Array, Array]:
        clock = self.clocks.get(name, lambda t: t)
        low, high = part.t_min, part.t_max
        if isinstance(how, AbstractDynamics):
            assert isinstance(part, Model)
            low, high = how.interval(part)
        return jnp.clip(clock(step.start), low, high), jnp.clip(clock(step.end), low, high)

    def _integrate(self, dynamics: AbstractDynamics) -> Callable[..., Array]:
        solver = dynamics.stepper(self.solver)

        def act(model: Model, step: SamplerStep, x: Array, condition: Condition, key: KeyArray) -> Array:
            ends = jnp.stack([step.start, step.end])

            def noise(shape: tuple[int, ...], index: int) -> dfx.AbstractBrownianPath:
                own = jax.random.fold_in(key, index)
                return GridBrownianPath(ends, shape, own, dtype=x.dtype, levy_area=levy_area_of(solver))

            terms, args = dynamics.terms(model, condition, noise)
            state = solver.init(terms, step.start, step.end, x, args)
            after, *_, result = solver.step(terms, step.start, step.end, x, args, state, jnp.asarray(False))
            return jnp.where(result == dfx.RESULTS.successful, after, jnp.nan)

        return act
