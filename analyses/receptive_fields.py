"""Receptive fields of z1 by regression of posterior means on images, against projective fields."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("receptive_fields", __doc__))
