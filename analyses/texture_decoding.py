"""Texture family decoded from pixels, contrast, z1 and z2 means (Csikor et al. 2022, Fig. 2i, 3a; Vas 2024)."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("texture_decoding", __doc__))
