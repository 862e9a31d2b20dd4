"""Gabor fits of the projective fields of z1, localized fields, space-frequency uncertainty (Csikor et al. 2022, Fig. 2d, e)."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("gabor_fits", __doc__))
