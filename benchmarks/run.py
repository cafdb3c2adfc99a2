"""Runs the jobs, each into its own json: `python -m benchmarks.run [--quick] [--job NAME ...]`, then draws the page."""

import argparse
import importlib
import sys
import time
import traceback

from . import environment

JOBS = ("adaptive", "fixed", "sde", "likelihood", "gradient", "training", "few_steps")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--job", action="append", choices=JOBS, help="only this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small shapes, into .cache/quick; measures nothing well")
    options = parser.parse_args(arguments)
    environment.settle()
    failed = [name for name in options.job or JOBS if not run_job(name, options.quick)]
    if not options.quick:
        importlib.import_module("benchmarks.page").main()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run_job(name, quick):
    """One job; whether it came to its end."""
    from . import harness

    module = importlib.import_module(f"benchmarks.jobs.{name}")
    report = harness.Report(name, module.TITLE, quick)
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
