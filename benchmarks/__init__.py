"""Measurements of the platform; each module is one benchmark, run by `scripts/bench`."""
# This file is needed: opacus installs a top-level `benchmarks` package, which would win without it.
