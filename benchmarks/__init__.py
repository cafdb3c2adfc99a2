"""flowrax against hand-written JAX and against its peers, as ratios within one process."""
