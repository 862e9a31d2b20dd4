"""Noise and signal correlations of z1 and their correspondence (Csikor et al. 2022, Fig. 3d-g; Vas 2024)."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("noise_correlations", __doc__))
