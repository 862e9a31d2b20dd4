"""Inpainting slopes inside and outside the mask by radius (Csikor et al. 2022, Fig. 4)."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("inpainting", __doc__))
