"""Compares flowrax with hand-written JAX and with other libraries, as ratios measured in one process."""
