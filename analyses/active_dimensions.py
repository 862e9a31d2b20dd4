"""Active and collapsed dimensions of z1 and z2 (Csikor et al. 2022, Fig. 2c, f)."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("active_dimensions", __doc__))
