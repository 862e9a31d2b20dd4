"""Population and lifetime sparseness of z1: Treves-Rolls, Hoyer, kurtosis; selectivity for texture families."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("sparseness", __doc__))
