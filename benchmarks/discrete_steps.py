"""The same sampling steps and losses for a batch of tokens in flowrax and in bionemo-moco, from precomputed logits.

`python -m benchmarks.discrete_steps CASE K BATCH` prints the memory that a call of bionemo-moco needs, in MiB.
"""

import sys

SITES = 256
INDICES = 20
ETA = 1.0
CASES = (
    "MDLM step",
    "D3PM step, uniform",
    "DFM Euler step, masks",
    "DFM Euler step, uniform",
    "masked loss",
    "masked loss and gradient",
)


def inputs(num_classes, batch):
    """The logits, the data, and which half of the tokens is masked; the mask is the last class, absent from data."""
    import numpy as np

    rng = np.random.default_rng(0)
    logits = rng.standard_normal((batch, SITES, num_classes), np.float32)
    data = rng.integers(0, num_classes - 1, (batch, SITES))
    is_mask = rng.random((batch, SITES)) < 0.5
    return logits, data, is_mask


def flowrax(case, num_classes, batch):
    """Two functions: one takes a step with a key for each event, or computes the losses of all events; the other
    returns the size of its result and of XLA's temporary arrays in MiB."""
    import jax
    import jax.numpy as jnp

    import flowrax as frx
    from flowrax.discrete.base import SamplerStep

    shape = (SITES,)
    logits, data, is_mask = inputs(num_classes, batch)
    masks = frx.discrete.Masked(shape, num_classes)
    uniform = frx.discrete.UniformCategorical(shape, num_classes)
    table = frx.schedule.ddpm_cosine(INDICES, beta_min=1e-3)
    prior, schedule, sampler = {
        "MDLM step": (masks, frx.discrete.LogLinearMasking(), frx.discrete.Ancestral()),
        "D3PM step, uniform": (uniform, frx.discrete.TabulatedMasking(table), frx.discrete.Ancestral()),
        "DFM Euler step, masks": (masks, frx.discrete.PolynomialMasking(1.0), frx.discrete.Euler(ETA)),
        "DFM Euler step, uniform": (uniform, frx.discrete.PolynomialMasking(1.0), frx.discrete.Euler(ETA)),
    }.get(case, (masks, frx.discrete.LogLinearMasking(), None))
    model = frx.CategoricalModel(lambda t, x, condition: condition, schedule, prior=prior, dtype=jnp.float32)
    x = jnp.asarray(data, jnp.int32)
    start = jnp.where(is_mask, num_classes - 1, x) if prior is masks else x
    key, logits = jax.random.key(0), jnp.asarray(logits)

    def step(key, logits, x, data):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
        now = SamplerStep(jnp.asarray(0), INDICES, jnp.asarray(0.5), jnp.asarray(0.5 + 1 / INDICES))
        return jax.vmap(lambda x, row, key: sampler.step(model, now, x, row, key))(x, logits, keys)

    def loss(key, logits, x, data):
        levels = jnp.where(x == data, -1.0, 1.0)
        value = frx.discrete.CrossEntropy(weight=frx.discrete.ELBOWeight())
        return jax.vmap(lambda x, level, x1, row: value(model, jnp.asarray(0.5), (x, level), x1, row))(
            x, levels, data, logits
        )

    def gradient(key, logits, x, data):
        return jax.grad(lambda logits: jnp.mean(loss(key, logits, x, data)))(logits)

    call = jax.jit({"masked loss": loss, "masked loss and gradient": gradient}.get(case, step))

    def memory():
        found = call.lower(key, logits, start, x).compile().memory_analysis()
        assert found is not None, "XLA provides no memory analysis on this device"
        return (found.temp_size_in_bytes + found.output_size_in_bytes) / 2**20

    return lambda: jax.block_until_ready(call(key, logits, start, x)), memory


def moco(case, num_classes, batch):
    from . import pieces

    torch = pieces.torch()
    theirs = pieces.peer("bionemo.moco.interpolants")
    priors, times = pieces.peer("bionemo.moco.distributions.prior"), pieces.peer("bionemo.moco.distributions.time")
    noises = pieces.peer("bionemo.moco.schedules.noise.continuous_noise_transforms")
    tables = pieces.peer("bionemo.moco.schedules.noise.discrete_noise_schedules")
    logits, data, is_mask = (torch.from_numpy(array) for array in inputs(num_classes, batch))
    leaf, clock = logits.clone().requires_grad_(case.endswith("gradient")), times.UniformTimeDistribution()
    masks, uniform = priors.DiscreteMaskedPrior(num_classes), priors.DiscreteUniformPrior(num_classes)
    half, dt = torch.full((batch,), 0.5), torch.full((batch,), 1 / INDICES)
    masked = torch.where(is_mask, num_classes - 1, data)
    if case == "MDLM step" or case.startswith("masked loss"):
        mdlm = theirs.MDLM(clock, masks, noises.LogLinearExpNoiseTransform())
        if case == "MDLM step":
            return lambda: mdlm.step(logits, half, masked, dt)
        if case == "masked loss":
            return lambda: mdlm.loss(logits, data, masked, half)
        # The loss modifies the logits in place, which autograd forbids for leaves; a network's outputs are no leaves.
        return lambda: torch.autograd.grad(mdlm.loss(leaf.clone(), data, masked, half).mean(), leaf)
    if case == "D3PM step, uniform":
        discrete = times.UniformTimeDistribution(discrete_time=True, nsteps=INDICES)
        d3pm = theirs.D3PM(discrete, uniform, tables.DiscreteCosineNoiseSchedule(INDICES))
        index = torch.full((batch,), INDICES // 2)
        return lambda: d3pm.step(logits, index, data)
    prior, state = (masks, masked) if case == "DFM Euler step, masks" else (uniform, data)
    flow = theirs.DiscreteFlowMatcher(clock, prior)
    return lambda: flow.step(logits, half, state, dt, stochasticity=ETA)


def moco_memory(case, num_classes, batch):
    """The increase of the process's resident memory during a call, in MiB; the tables are allocated before.

    Freed memory must return to the system at once, so the process runs with `MALLOC_MMAP_THRESHOLD_=65536`.
    """
    call = moco(case, num_classes, batch)
    call()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


if __name__ == "__main__":
    from . import environment

    environment.settle()
    print(moco_memory(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
