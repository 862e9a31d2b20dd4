"""The evidence lower bound and its terms on natural and texture images (Vas 2024)."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("bound_terms", __doc__))
