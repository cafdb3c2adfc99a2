"""The states that a `diffrax.SaveAt` keeps, for a solve that is taken one step at a time."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import is_traced
from .._base.typing import Array, Int, PyTree
from .bound_sample import BoundSample, Interval
from .stepping import Stepping
from .trees import put


class Saved(eqx.Module):
    """Times and values in the order of time; both are infinite where the solve did not arrive."""

    times: Array
    values: PyTree


class Saver(eqx.Module):
    """Keeps the start, given times or every so many steps, and the end, each through `fn(t, y, args)`."""

    start: bool = eqx.field(static=True)
    end: bool = eqx.field(static=True)
    every: int = eqx.field(static=True)
    ts: Array | None
    fn: Any

    def _num_slots(self, max_steps: int) -> int:
        inner = max_steps // self.every if self.every else 0 if self.ts is None else len(self.ts)
        return int(self.start) + inner + int(self.end and self.every != 1)

    def blank(self, sample: BoundSample) -> Saved:
        """The room for the saved values of one sample, before its first step."""
        stepping = sample.stepping
        first = jax.tree.map(jnp.asarray, self.fn(stepping.start, sample.y0, sample.args))
        slots = self._num_slots(stepping.max_steps)
        times = jnp.full(slots, jnp.inf, stepping.start.dtype)

        def room(leaf: Array) -> Array:
            unreached = jnp.inf if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0
            return jnp.full((slots, *leaf.shape), unreached, leaf.dtype)

        values = jax.tree.map(room, first)
        if self.start:
            times = times.at[0].set(stepping.start)
            values = jax.tree.map(lambda leaf, value: leaf.at[0].set(value), values, first)
        return Saved(times, values)

    def unreached(self, blank: Saved, until: Array) -> Saved:
        """`blank` as it stands for a step that begins at `until`, with zeros for values."""
        times = blank.times
        if self.ts is not None:
            inner = times[self._inner]
            times = times.at[self._inner].set(jnp.where(self.ts <= until, jnp.zeros_like(inner), jnp.inf))
        return Saved(times, jax.tree.map(jnp.zeros_like, blank.values))

    @property
    def _inner(self) -> slice:
        assert self.ts is not None
        return slice(int(self.start), int(self.start) + len(self.ts))

    def save(
        self,
        sample: BoundSample,
        interval: Interval,
        count: Int[Array, ""],
        y: PyTree,
        dense: dict[str, PyTree],
        kept: Array,
        saved: Saved,
    ) -> Saved:
        """The saved values after step number `count`, which ended at `y`; unchanged unless the step was `kept`."""
        args, stepping = sample.args, sample.stepping
        sign = -1 if stepping.backward else 1
        if self.ts is not None:
            saved = self._save_ts(sample, sign, interval, dense, kept, saved)
        if not (self.end or self.every):
            return saved
        value, count = self.fn(sign * interval.t1, y, args), count + 1
        wanted = kept & (interval.t1 >= stepping.span[1]) if self.end else jnp.asarray(False)
        slot = jnp.asarray(len(saved.times) - 1)
        if self.every:
            wanted = kept & (wanted | (count % self.every == 0))
            slot = int(self.start) + (count - 1) // self.every
        slot = jnp.where(wanted, slot, len(saved.times))
        return put(saved, slot, Saved(sign * interval.t1, value))

    def _save_ts(
        self,
        sample: BoundSample,
        sign: int,
        interval: Interval,
        dense: dict[str, PyTree],
        kept: Array,
        saved: Saved,
    ) -> Saved:
        assert self.ts is not None
        args, path = sample.args, sample.solver.interpolation_cls(t0=interval.t0, t1=interval.t1, **dense)
        inside = jnp.clip(self.ts, interval.t0, interval.t1)
        values = jax.vmap(lambda t: self.fn(sign * t, path.evaluate(t), args))(inside)
        inner = self._inner
        new = kept & (self.ts <= interval.t1) & jnp.isinf(saved.times[inner])

        def write(leaf: Array, value: Array) -> Array:
            mask = new.reshape(-1, *(1,) * (value.ndim - 1))
            return leaf.at[inner].set(jnp.where(mask, value, leaf[inner]))

        times = write(saved.times, sign * self.ts)
        return Saved(times, jax.tree.map(write, saved.values, values))


def make_saver(saveat: dfx.SaveAt, stepping: Stepping) -> Saver | None:
    """The saver of a `diffrax.SaveAt` that passed [`check_saveat`][]; None where nothing is to be kept."""
    sub = saveat.subs
    assert isinstance(sub, dfx.SubSaveAt)
    ts = None if sub.ts is None else sub.ts.astype(stepping.start.dtype)
    if not (sub.t0 or sub.t1 or sub.steps or ts is not None):
        return None
    return Saver(sub.t0, sub.t1, sub.steps, -ts[::-1] if ts is not None and stepping.backward else ts, sub.fn)


def check_saveat(saveat: dfx.SaveAt, stepping: Stepping) -> dfx.SaveAt:
    """Raises `ValueError` for a `saveat` that is not supported; moves times onto ends that they miss by rounding."""
    sub = saveat.subs
    if saveat.dense or not isinstance(sub, dfx.SubSaveAt):
        raise ValueError("saveat takes one of ts=, steps=, t0= and t1=, not dense= nor several subs=.")
    if sub.ts is None:
        return saveat
    if sub.steps:
        raise ValueError("saveat takes ts= or steps=, not both.")
    if is_traced(sub.ts, stepping):
        return saveat
    low, high = sorted((float(stepping.start), float(stepping.end)))
    times, margin = np.asarray(sub.ts, np.float64), 1e-6 * max(1.0, abs(low), abs(high))
    if np.any(times < low - margin) or np.any(times > high + margin) or np.any(np.diff(times) < 0):
        raise ValueError(f"saveat's ts must be increasing and within this solve's times, {low:g} to {high:g}.")
    return eqx.tree_at(lambda s: s.subs.ts, saveat, jnp.clip(sub.ts.astype(stepping.start.dtype), low, high))
