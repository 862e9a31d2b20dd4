"""Texture-selective z2 dimensions by greedy addition, and what the others tell (Csikor et al. 2022, Fig. 2h; Vas 2024)."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("texture_selectivity", __doc__))
