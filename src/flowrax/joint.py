r"""Events of several parts, continuous and categorical ones: the positions and the types of the atoms of a molecule.

One network sees all parts at once, and every part has its own path, prior and prediction. In a step the others are what
they were at its start: an error of first order in the steps, beside those of the parts' own (Campbell et al. 2024).
"""

from collections.abc import Callable, Mapping
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from ._checks import check_interval, time_dtype
from ._typing import Array, Condition, DType, KeyArray, Network, PyTree, Scalar
from .abstract import AbstractDynamics, AbstractMoves, AbstractNetwork, AbstractSampledModel, Move, call_network
from .categorical import CategoricalModel
from .coupling import Independent
from .discrete import even_times
from .dynamics import ProbabilityFlow
from .engine import evaluations_per_step
from .model import Model, network_dtype
from .preconditioner import Unscaled
from .prior import AbstractPrior
from .stepper import GridBrownianPath, levy_area_of

Part = Model | CategoricalModel


class Slot(AbstractNetwork):
    """Stands for the network of a part, which is that of the [`JointModel`][] it belongs to."""

    def __call__(self, t: Scalar, x: PyTree, condition: Condition = None, *, key: KeyArray | None = None) -> Any:
        raise ValueError("Slot() is the network of a part: call the JointModel's.")


class Said(AbstractNetwork):
    """What the joint network has said of one part, as its network."""

    output: Array

    def __call__(self, t: Scalar, x: PyTree, condition: Condition = None, *, key: KeyArray | None = None) -> Any:
        return self.output


class Seen(AbstractNetwork):
    """The joint network as that of one part, the others being what they are."""

    network: Network
    name: str = eqx.field(static=True)
    separate_times: bool = eqx.field(static=True)
    times: Any
    others: dict[str, Array]

    def __call__(self, t: Scalar, x: PyTree, condition: Condition = None, *, key: KeyArray | None = None) -> Any:
        times = {**self.times, self.name: t} if self.separate_times else t
        return call_network(self.network, times, {**self.others, self.name: x}, condition, key=key)[self.name]


class JointPrior(AbstractPrior):
    """Independent priors of the parts."""

    parts: dict[str, AbstractPrior]

    def __init__(self, parts: Mapping[str, AbstractPrior]):
        """**Arguments:**

        - `parts`: the prior of each name.
        """
        self.parts = dict(parts)

    @property
    def shape(self) -> Any:
        return {name: part.shape for name, part in self.parts.items()}

    @property
    def dtype(self) -> Any:
        return {name: part.dtype for name, part in self.parts.items()}

    @property
    def rank(self) -> Any:
        """The sum over the parts."""
        return sum(part.rank for part in self.parts.values())

    def draw(self, key: KeyArray) -> dict[str, Array]:
        keys = jax.random.split(key, len(self.parts))
        return {name: part.draw(k) for (name, part), k in zip(sorted(self.parts.items()), keys, strict=True)}

    def log_density(self, x: dict[str, Array]) -> Array:
        """The sum over the parts."""
        return sum((part.log_density(x[name]) for name, part in self.parts.items()), jnp.zeros(()))


class JointPaths(eqx.Module):
    """The paths of the parts."""

    parts: dict[str, Any]

    def noise(self, key: KeyArray, x0: dict[str, Array]) -> dict[str, PyTree]:
        """What each path is random in beside its data."""
        keys = jax.random.split(key, len(self.parts))
        return {name: path.noise(k, x0[name]) for (name, path), k in zip(sorted(self.parts.items()), keys, strict=True)}


class JointModel(AbstractSampledModel):
    """A network of events that are dictionaries of parts, as a law.

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

        - `network`: `network(t, x, condition)` for one event, a dictionary of the parts' arrays; it gives a dictionary
            of the parts' outputs, each as the part's own network would: of the shape of the event, or its logits.
        - `parts`: a [`Model`][] or [`CategoricalModel`][] for each name, with `Slot()` for its network. Raises
            `ValueError` for one that scales its network's input or whose pairs are not independent.
        - `separate_times`: whether `t` is a dictionary too, each part having a time of its own: for training on all
            pairs of times, which makes every conditional law of one part given another a sample away.
        """
        self.network, self.parts, self.coupling = network, dict(parts), Independent()
        self.separate_times = separate_times
        for name, part in self.parts.items():
            if isinstance(part, Model) and not isinstance(part.preconditioner, Unscaled):
                raise ValueError(f"Part {name} has a preconditioner; parts share a network, so scale within it.")
            if not part.coupling.independent:
                raise ValueError(f"Part {name} has a coupling; the parts of a JointModel are paired independently.")
        self.dtype = time_dtype(network_dtype(network))
        self.t_min = min(part.t_min for part in self.parts.values())
        self.t_max = max(part.t_max for part in self.parts.values())
        check_interval(self.t_min, self.t_max)

    @property
    def prior(self) -> JointPrior:
        """The priors of the parts."""
        return JointPrior({name: part.prior for name, part in self.parts.items()})

    @property
    def source(self) -> JointPrior:
        return JointPrior({name: part.source for name, part in self.parts.items()})

    @property
    def interpolant(self) -> JointPaths:
        """The paths of the parts."""
        return JointPaths({name: part.interpolant for name, part in self.parts.items()})

    @property
    def default_sampler(self) -> "JointMoves":
        return JointMoves()

    def events(self, name: str, x: PyTree, size: int | None = None) -> dict[str, Array]:
        """A batch of events; raises `ValueError` unless it has all parts, of one number of rows."""
        if not isinstance(x, Mapping) or set(x) != set(self.parts):
            raise ValueError(f"{name} must be a dictionary of the parts {sorted(self.parts)}.")
        rows = {part: self.parts[part].events(f"{name}[{part!r}]", value, size) for part, value in x.items()}
        if len({len(value) for value in rows.values()}) != 1:
            raise ValueError(f"The parts of {name} have different numbers of rows.")
        return rows

    def times_of(self, t: Mapping[str, Scalar]) -> Any:
        """What the network is told of the time, given that of each part."""
        return dict(t) if self.separate_times else t[sorted(t)[0]]

    def outputs(
        self, t: Mapping[str, Scalar], x: dict[str, Array], condition: Condition = None, *, key: KeyArray | None = None
    ) -> dict[str, Array]:
        """Of every part, in one evaluation of the network; raises `ValueError` where it gives no dictionary of them."""
        said = call_network(self.network, self.times_of(t), x, condition, key=key)
        if not isinstance(said, Mapping) or set(said) != set(self.parts):
            got = sorted(said) if isinstance(said, Mapping) else type(said).__name__
            raise ValueError(f"The network gave {got}; it must give a dictionary of the parts {sorted(self.parts)}.")
        return dict(said)

    def said(self, name: str, outputs: Mapping[str, Array]) -> Part:
        """One part as a model that predicts what has been said."""
        return eqx.tree_at(lambda m: m.network, self.parts[name], Said(outputs[name]))

    def seen(self, name: str, t: Mapping[str, Scalar], x: dict[str, Array]) -> Part:
        """One part as a model of its own, the others being what they are in `x` at the times `t`."""
        network = Seen(self.network, name, self.separate_times, dict(t), x)
        return eqx.tree_at(lambda m: m.network, self.parts[name], network)


def _default(part: Part) -> AbstractDynamics | AbstractMoves:
    return part.default_sampler if isinstance(part, CategoricalModel) else ProbabilityFlow()


class JointMoves(AbstractMoves):
    """Moves all parts by one step, each by its own dynamics or moves, given the others at its start.

    With the defaults, Euler steps of the probability flow and ancestral moves, the network is evaluated once a step.
    """

    dynamics: dict[str, AbstractDynamics | AbstractMoves] = eqx.field(default_factory=dict)
    """Of the parts that shall not have their defaults; of those whose state is the event."""
    solver: dfx.AbstractSolver = dfx.Euler()
    """Of the continuous parts, one step at a time."""
    clocks: dict[str, Callable[[Array], Array]] = eqx.field(default_factory=dict)
    """Of a model of separate times: a part's time, a non-decreasing function of that of the steps. One that stays at
    1 keeps the part as it was given in `x0`, so that the rest is drawn given it."""

    def times(self, model: JointModel, grid: Any) -> Array:
        if self.clocks and not model.separate_times:
            raise ValueError("clocks give the parts times of their own; this model was made with separate_times=False.")
        unknown = (set(self.dynamics) | set(self.clocks)) - set(model.parts)
        if unknown:
            raise ValueError(f"There is no part {sorted(unknown)}; the model has {sorted(model.parts)}.")
        times = even_times(model, grid)
        for name, how in self.dynamics.items():
            own = how.times(model.parts[name], len(times) - 1) if isinstance(how, AbstractMoves) else times
            if len(own) != len(times):
                raise ValueError(
                    f"The moves of part {name} take {len(own) - 1} steps, of which grid has {len(times) - 1}."
                )
        return times

    @property
    def evaluations(self) -> int:
        """Of the network in one step, if its parts jump by one evaluation each."""
        jumps = [moves.evaluations for moves in self.dynamics.values() if isinstance(moves, AbstractMoves)]
        return max([self._stages, *jumps])

    @property
    def _stages(self) -> int:
        return evaluations_per_step(self.solver)

    def move(
        self, model: JointModel, step: Move, x: dict[str, Array], condition: Condition, key: KeyArray
    ) -> dict[str, Array]:
        hows = {name: self.dynamics.get(name, _default(part)) for name, part in model.parts.items()}
        ends = {name: self._ends(name, part, hows[name], step) for name, part in model.parts.items()}
        starts = {name: start for name, (start, _) in ends.items()}
        outputs = model.outputs(starts, x, condition)
        after = {}
        for number, name in enumerate(sorted(model.parts)):
            how = hows[name]
            once = (how.evaluations if isinstance(how, AbstractMoves) else self._stages) == 1
            alone = model.said(name, outputs) if once else model.seen(name, starts, x)
            start, end = ends[name]
            first = None if step.first is None else step.first[name]
            shared = None if step.key is None else jax.random.fold_in(step.key, number)
            own = Move(step.index, step.count, start, end, first, shared)
            act = how.move if isinstance(how, AbstractMoves) else self._integrate(how)
            moved = act(alone, own, x[name], condition, jax.random.fold_in(key, number))
            after[name] = jnp.where(end > start, moved, x[name])
        return after

    def _ends(self, name: str, part: Part, how: AbstractDynamics | AbstractMoves, step: Move) -> tuple[Array, Array]:
        clock = self.clocks.get(name, lambda t: t)
        low, high = (part.t_min, part.t_max)
        if isinstance(how, AbstractDynamics):
            assert isinstance(part, Model)
            low, high = how.interval(part)
        start, end = (jnp.clip(clock(t), low, high) for t in (step.start, step.end))
        return start, end

    def _integrate(self, dynamics: AbstractDynamics) -> Callable[..., Array]:
        def act(model: Model, step: Move, x: Array, condition: Condition, key: KeyArray) -> Array:
            ends = jnp.stack([step.start, step.end])

            def noise(shape: tuple[int, ...], index: int) -> dfx.AbstractBrownianPath:
                own = jax.random.fold_in(key, index)
                return GridBrownianPath(ends, shape, own, dtype=x.dtype, levy_area=levy_area_of(self.solver))

            terms, args = dynamics.terms(model, condition, noise)
            state = self.solver.init(terms, step.start, step.end, x, args)
            after, *_ = self.solver.step(terms, step.start, step.end, x, args, state, jnp.asarray(False))
            return after

        return act
