"""What a synthesis gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Synthesis:
    """A synthesised image (y, x), values about 0 to 1, and the loss on the way, the last one being the image's."""

    image: np.ndarray
    losses: tuple[float, ...]
