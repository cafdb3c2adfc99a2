"""Whether posteriors are calibrated, and how far two samples are from each other.

scipy is imported with this module and scikit-learn at first use, neither on `import flowrax`.
"""

from .calibration import (
    Calibration as Calibration,
    Verdict as Verdict,
    calibration_of_ranks as calibration_of_ranks,
    simulation_based_calibration as simulation_based_calibration,
)
from .classifiers import (
    ClassifierTest as ClassifierTest,
    LocalClassifierTest as LocalClassifierTest,
    c2st as c2st,
    l_c2st as l_c2st,
)
from .contraction import Contraction as Contraction, z_scores_and_contraction as z_scores_and_contraction
from .coverage import Coverage as Coverage, expected_coverage as expected_coverage, tarp as tarp
from .diagnose import Diagnosis as Diagnosis, diagnose as diagnose
from .distances import energy_distance as energy_distance, mmd as mmd, sliced_wasserstein as sliced_wasserstein
from .samples import Distance as Distance
from .simulate import Simulations as Simulations, simulate_posteriors as simulate_posteriors
