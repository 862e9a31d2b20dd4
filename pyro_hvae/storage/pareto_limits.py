"""Up to which Pareto k-hat importance weights are to be trusted (Vehtari, Simpson, Gelman, Yao & Gabry 2024).

Whoever writes a k-hat into a file and whoever reads one from it go by the same limits.
"""

from __future__ import annotations

import numpy as np

#: Below it estimates by importance sampling can be trusted, however many weights there are.
GOOD_K = 0.7


def k_limit(weights: int) -> float:
    """Limit of k-hat for so many importance weights an image, ``min(0.7, 1 - 1 / log10(weights))``: few say less."""
    return min(GOOD_K, 1 - 1 / float(np.log10(max(weights, 2))))
