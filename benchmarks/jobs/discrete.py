"""The cost of sampling steps and losses for tokens from precomputed logits, without the network."""

import os
import subprocess
import sys

from .. import discrete_steps, environment, harness, pieces

TITLE = "Tokens: one step and the loss, without the network"
BAR = 5
PEER = "bionemo-moco"


def run(report, quick):
    sizes = [(32, 2), (1024, 2)] if quick else [(32, 16), (1024, 16), (32, 64), (1024, 64)]
    rounds = 3 if quick else 9
    report.setting(
        sites=discrete_steps.SITES, rounds=rounds, stochasticity=discrete_steps.ETA, indices=discrete_steps.INDICES
    )
    with report.optional(PEER):
        pieces.torch()
    for num_classes, batch in sizes:
        for case in discrete_steps.CASES:
            one(report, rounds, case, num_classes, batch)


def one(report, rounds, case, num_classes, batch):
    where = f"{case}, K = {num_classes:,}, batch {batch}"
    call, memory = discrete_steps.flowrax(case, num_classes, batch)
    variants = {"flowrax": call}
    with report.optional(PEER):
        variants[PEER] = discrete_steps.moco(case, num_classes, batch)
    times = harness.alternate(variants, rounds)
    report.timing(times, where)
    report.number(f"memory of flowrax, {where}", memory(), "MiB")
    if PEER in variants:
        report.compare(f"{PEER} / flowrax, {where}", times, PEER, "flowrax", at_least=BAR)
        report.number(f"memory of {PEER}, {where}", resident(case, num_classes, batch), "MiB")


def resident(*arguments):
    """The memory that a call of the peer needs, in MiB: the median of three runs, each in a new process."""
    command = [sys.executable, "-m", "benchmarks.discrete_steps", *map(str, arguments)]
    found = []
    for _ in range(3):
        settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=environment.ROOT, env=settings)
        found.append(float(answer.stdout))
    return sorted(found)[1]
