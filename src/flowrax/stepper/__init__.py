"""What the solvers need and diffrax lacks."""

from .brownian import GridBrownianPath as GridBrownianPath, levy_area_of as levy_area_of
