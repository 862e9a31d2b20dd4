"""For which share of images the moments of the posterior can be trusted: Pareto k-hat and effective sample size."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("trust", __doc__))
