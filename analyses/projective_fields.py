"""Projective fields of z1 and z2 (Csikor et al. 2022, Fig. 2d, e)."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("projective_fields", __doc__))
