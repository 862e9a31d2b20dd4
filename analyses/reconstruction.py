"""Images against the means of their posterior predictive."""

from pyro_hvae.report.script import main

if __name__ == "__main__":
    raise SystemExit(main("reconstruction", __doc__))
