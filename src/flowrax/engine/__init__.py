"""Many solves at once, on a grid or adaptively, and their gradient."""

from .bound_sample import AbstractEquation as AbstractEquation
from .isolation import isolate_rows as isolate_rows
from .placement import (
    Placement as Placement,
    answer_of_none as answer_of_none,
    on_each_device as on_each_device,
    shard_rows as shard_rows,
)
from .saving import check_saveat as check_saveat
from .solve import (
    ProgressLike as ProgressLike,
    Solved as Solved,
    SolveSpec as SolveSpec,
    mark_nonfinite as mark_nonfinite,
    solve as solve,
)
from .stepping import (
    Grid as Grid,
    Stepping as Stepping,
    check_tolerances as check_tolerances,
    evaluations_per_step as evaluations_per_step,
    has_error_estimate as has_error_estimate,
    make_noise as make_noise,
    make_stepping as make_stepping,
)
from .trees import in_lanes as in_lanes
