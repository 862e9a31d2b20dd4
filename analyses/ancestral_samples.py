"""Ancestral samples of the generative model against natural images."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("ancestral_samples", __doc__))
