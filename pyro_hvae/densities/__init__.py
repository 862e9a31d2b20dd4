"""Densities of patches that are no hierarchy: what a bound is compared with. Numpy and scikit-learn, neither torch nor pyro."""
