"""Errors of exponential multistep methods at few evaluations, with the same model, noise levels and starting points."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx

from .. import harness, nets, pieces

TITLE = "Few evaluations: DPM-Solver++ 2M and UniPC"
COUNTS = (5, 10, 20, 40)
BARS = (10, 20)
SIGMA_MIN, RHO = 0.02, 7
# Ratios up to this count as equal: two float32 evaluations of the same formula differ by less.
MATCH = 1.02


def run(report, quick):
    n = 100 if quick else 1000
    report.setting(samples=n, grid=f"Karras, rho {RHO}, down to sigma/alpha = {SIGMA_MIN}, then 0")
    oracle = plane_oracle()
    x0 = jax.vmap(oracle.source.draw)(jax.random.split(jax.random.key(1), n))
    with nets.double():
        twin, start = plane_oracle(jnp.float64), jnp.asarray(np.asarray(x0), jnp.float64)
        truth = nets.solve_tightly(nets.velocity(twin), start, 0.0, 1.0)
    case(report, "mixture oracle, VP", oracle, x0, truth, False)
    trained = nets.mixture()
    trained = nets.model_of(trained.network, 64, t_min=1 / 81)
    x0 = (1 - trained.t_min) * nets.noise(n, 64)
    case(report, "trained 64-d network, linear", trained, x0, nets.truth(trained, x0, "few"), True)


def plane_oracle(dtype=jnp.float32):
    means = 3 * np.asarray(jax.random.normal(jax.random.key(0), (25, 2), jnp.float32))
    arrays = (np.full(25, 1 / 25), means, np.tile(0.1 * np.eye(2), (25, 1, 1)))
    return frx.oracle.GaussianMixture(*(jnp.asarray(a, dtype) for a in arrays)).model(frx.VariancePreserving())


def case(report, part, model, x0, truth, linear):
    for count in COUNTS:
        found = {}
        levels, times = grid(model, count)
        for name, make in {"DPM-Solver++ 2M": pieces.dpm_solver_pp, "UniPC 2": pieces.unipc}.items():
            with report.optional(f"{part}: flowrax {name}"):
                found[f"flowrax {name}"] = ours(model, x0, make(), times)
        found["flowrax Heun"] = ours(model, x0, dfx.Heun(), grid(model, max(1, count // 2))[1])
        with report.optional(f"{part}: k-diffusion"):
            found["k-diffusion DPM-Solver++ 2M"] = k_diffusion(model, x0, levels, times)
        for name, scheduler in {"DPM-Solver++ 2M": "DPMSolverMultistep", "UniPC 2": "UniPCMultistep"}.items():
            with report.optional(f"{part}: diffusers {name}"):
                found[f"diffusers {name}"] = diffusers(model, x0, times, f"{scheduler}Scheduler", linear)
        errors = {name: harness.errors(x, truth) for name, x in found.items()}
        for name, error in errors.items():
            report.point(name, part, evaluations=count, **error)
        if count in BARS:
            judge(report, f"{part}, {count} evaluations", errors)


def judge(report, where, errors):
    for method in ("DPM-Solver++ 2M", "UniPC 2"):
        theirs = [e["rms"] for name, e in errors.items() if name.endswith(method) and not name.startswith("flowrax")]
        if f"flowrax {method}" in errors and theirs:
            value = errors[f"flowrax {method}"]["rms"] / min(theirs)
            report.bar(f"{where}: rms error of {method} / the better peer's", value, at_most=MATCH)


def grid(model, count):
    """`count + 1` levels of sigma / alpha, the last of them zero, and the corresponding times of the model."""
    top = float(jnp.exp(-model.schedule.log_snr(jnp.asarray(model.t_min, jnp.float32)) / 2))
    ramp = np.linspace(0, 1, count)
    levels = (top ** (1 / RHO) + ramp * (SIGMA_MIN ** (1 / RHO) - top ** (1 / RHO))) ** RHO
    inner = np.asarray(jax.vmap(model.schedule.time_at)(jnp.asarray(-2 * np.log(levels), jnp.float32)), np.float64)
    return np.append(levels, 0.0), np.concatenate([[model.t_min], inner[1:], [model.t_max]])


def ours(model, x0, solver, times):
    steps = jnp.asarray(times, jnp.float32)
    return np.asarray(frx.sample(model, jax.random.key(0), x0.shape[0], x0=x0, solver=solver, grid=steps).x)


def denoiser(model):
    """`(t, x) -> E[x1 | x_t]` for torch tensors."""
    predict = jax.jit(lambda t, x: jax.vmap(lambda x: model.predict(t, x).data)(x))
    return lambda t, x: nets.as_torch(predict(jnp.asarray(t, jnp.float32), jnp.asarray(x.numpy())))


def k_diffusion(model, x0, levels, times):
    """The sampler of k-diffusion, whose state is x / alpha, with noise level sigma / alpha."""
    sampling, torch = pieces.k_diffusion_sampling(), pieces.torch()
    predict, alpha = denoiser(model), alphas(model, times)
    table = {round(float(level), 5): k for k, level in enumerate(np.asarray(levels, np.float32))}

    def denoise(x, sigma, **extras):
        k = table[round(float(sigma[0]), 5)]
        return predict(times[k], x * alpha[k])

    sigmas = torch.tensor(levels, dtype=torch.float32)
    start = nets.as_torch(x0) / alpha[0]
    with torch.no_grad():
        return sampling.sample_dpmpp_2m(denoise, start, sigmas, disable=True).numpy() * alpha[-1]


def alphas(model, times):
    return [float(model.schedule.alpha(jnp.asarray(t, jnp.float32))) for t in times]


def diffusers(model, x0, times, name, linear):
    """A scheduler of diffusers on the same noise levels, with a first-order last step."""
    torch, library = pieces.torch(), pieces.peer(f"diffusers.schedulers.{MODULES[name]}")
    predict = denoiser(model)
    # The noise level is sigma for the linear path and sigma / alpha for the VP path.
    sigmas = [1 - t for t in times] if linear else list(grid(model, len(times) - 1)[0])
    options = {"algorithm_type": "dpmsolver++"} if name.startswith("DPM") else {"predict_x0": True}
    scheduler = getattr(library, name)(
        prediction_type="sample", solver_order=2, use_flow_sigmas=linear, final_sigmas_type="zero", **options
    )
    scheduler.set_timesteps(len(times) - 1)
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float32)
    scheduler.timesteps = torch.arange(len(times) - 1)
    x = nets.as_torch(x0)
    with torch.no_grad():
        for k, step in enumerate(scheduler.timesteps):
            x = scheduler.step(predict(times[k], x), step, x).prev_sample
    return x.numpy()


MODULES = {
    "DPMSolverMultistepScheduler": "scheduling_dpmsolver_multistep",
    "UniPCMultistepScheduler": "scheduling_unipc_multistep",
}
