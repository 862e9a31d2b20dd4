"""Bounds on log p(x), their gradient estimators, and what has to hold of a pair for them."""
