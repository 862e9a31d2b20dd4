"""How a pair starts, before the first step of training."""

from pyro_hvae.starts.energies import start_from_energies
from pyro_hvae.starts.linear_regime import start_in_linear_regime

__all__ = ["start_from_energies", "start_in_linear_regime"]
