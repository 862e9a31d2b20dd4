"""How z2 sets location and scale of z1, and traversals of z2 decoded to images."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("contextual_prior", __doc__))
