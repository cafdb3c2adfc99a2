"""Runs the jobs, writes one JSON file each, and regenerates the page of results.

Run as `python -m benchmarks.run [--quick] [--job NAME ...]`.
"""

import argparse
import importlib
import importlib.util
import sys
import time
import traceback

from . import environment

JOBS = (
    "adaptive",
    "fixed",
    "sde",
    "likelihood",
    "gradient",
    "training",
    "few_steps",
    "discrete",
    "couplings",
    "inverse",
)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--job", action="append", choices=JOBS, help="run only this job; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small shapes, to try a job; not a measurement")
    options = parser.parse_args(arguments)
    environment.settle()
    folder = results_folder(options.quick)
    failed = [name for name in options.job or JOBS if not run_job(name, options.quick, folder)]
    if folder == environment.RESULTS:
        importlib.import_module("benchmarks.page").main()
    else:
        print(f"The results are in {folder}; the page was not changed.")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def results_folder(quick):
    """The folder of the results; quick runs and runs without the peers have folders of their own."""
    if quick:
        return environment.CACHE / "quick"
    peers = ("torch", "torchdiffeq", "flow_matching", "torchcfm", "bionemo")
    whole = all(importlib.util.find_spec(name) for name in peers)
    return environment.RESULTS if whole else environment.CACHE / "alone"


def run_job(name, quick, folder):
    """Runs one job; returns whether it finished."""
    from . import harness

    module = importlib.import_module(f"benchmarks.jobs.{name}")
    report = harness.Report(name, module.TITLE, quick, folder)
    harness.say(f"{name}: {module.TITLE}")
    start = time.perf_counter()
    try:
        module.run(report, quick)
    except Exception:
        traceback.print_exc()
        return False
    seconds = time.perf_counter() - start
    report.finish(round(seconds, 1))
    harness.say(f"  {seconds:.0f} s, {report.path}")
    return True


if __name__ == "__main__":
    main()
