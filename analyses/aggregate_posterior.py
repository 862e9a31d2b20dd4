"""Posterior of z2 over all images against its prior (Vas 2024)."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("aggregate_posterior", __doc__))
