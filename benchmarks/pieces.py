"""Looks up other libraries, and names of flowrax that some versions do not have."""

import functools
import importlib
import importlib.machinery
import os
import sys
import types
from typing import Any

import flowrax as frx

from .harness import Missing


def piece(*paths) -> Any:
    """The first of these dotted names that exists in the package."""
    for path in paths:
        found: Any = frx
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise Missing(f"this flowrax has no {paths[0]}")


def reversible_adjoint():
    return piece("ReversibleAdjoint", "stepper.ReversibleAdjoint")()


def reversible(solver):
    return piece("Reversible", "stepper.Reversible")(solver)


def dpm_solver_pp():
    return piece("DPMSolverPP", "stepper.DPMSolverPP", "stepper.exponential.DPMSolverPP")(order=2)


def unipc():
    return piece("UniPC", "stepper.UniPC", "stepper.exponential.UniPC")(order=2)


def hadamard():
    return piece("divergence.Hadamard", "divergence.RandomisedHadamard", "Hadamard")()


def kabsch_cost():
    return piece("coupling.kabsch_cost", "coupling.alignment.kabsch_cost")


def block_ot(size):
    """A coupling by exact transport within blocks of `size` rows."""
    exact = piece("ExactOT")
    for name in ("block_size", "block"):
        if name in getattr(exact, "__dataclass_fields__", {}):
            return exact(**{name: size})
    return piece("coupling.BlockOT", "BlockOT")(size)


def peer(module):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"{module} cannot be imported here ({error}); see requirements-peers.txt") from None


@functools.cache
def torch():
    library = peer("torch")
    library.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    return library


@functools.cache
def k_diffusion_sampling():
    """The samplers of k-diffusion, without its training code, which imports a dozen libraries not used here."""
    torch()
    found = importlib.machinery.PathFinder.find_spec("k_diffusion")
    if found is None or not found.submodule_search_locations:
        raise Missing("k_diffusion is not installed; see requirements-peers.txt")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    helpers = types.ModuleType("k_diffusion.utils")
    # The only helper that these samplers call.
    helpers.__dict__["append_dims"] = lambda x, ndim: x.reshape(x.shape + (1,) * (ndim - x.ndim))
    package.__dict__["utils"] = helpers
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": helpers})
    return peer("k_diffusion.sampling")
