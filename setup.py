"""Packages: the modules, and the trained pairs of ``data/reference``, which a wheel carries as ``pyro_hvae/reference``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pyro_hvae", "pyro_hvae.*"]), "pyro_hvae.reference"],
    package_dir={"pyro_hvae.reference": "data/reference"},
    package_data={"pyro_hvae": ["py.typed"], "pyro_hvae.reference": ["*/*"]},
)
