"""How a pair starts, before the first step of training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.contrast import ContrastModel
from pyro_hvae.starts.contrast import start_with_contrast
from pyro_hvae.starts.energies import start_from_energies
from pyro_hvae.starts.ica import start_from_ica
from pyro_hvae.starts.linear_regime import start_in_linear_regime

STARTS = ("default", "linear_regime", "ica", "energies")
FROM_IMAGES = ("ica", "energies")  # those that need training images
ENERGY_IMAGES = 4000

__all__ = ["STARTS", "check_starts", "start", "start_from_energies", "start_from_ica", "start_in_linear_regime"]


def check_starts(names: str | Sequence[str]) -> tuple[str, ...]:
    """Starts by name, ``"ica"``, ``"ica,energies"`` or ``("ica", "energies")``, as a tuple; without ``"default"``.

    :raises HVAEError: for an unknown one, naming the nearest, and for an order in which one undoes another.
    """
    given = tuple(names.split(",")) if isinstance(names, str) else tuple(names)
    given = tuple(name.strip() for name in given)
    for name in given:
        if name not in STARTS:
            raise unknown("start", name, STARTS)
    wanted = tuple(name for name in given if name != "default")
    if any(name in ("linear_regime", "ica") for name in wanted[1:]) or len(set(wanted)) < len(wanted):
        raise HVAEError(
            f"start={','.join(given)}: linear_regime and ica start a whole pair and undo what stands before them; give one of "
            "them first, then energies"
        )
    return wanted


def start(vae: HVAE, names: str | Sequence[str], x: Tensor | None = None) -> HVAE:
    """Apply starts by name, one after the other, with PyTorch's global random state; in place, and returned.

    :param names: of :data:`STARTS`; ``("ica", "energies")`` gives z1 its fields, then z2 their energies.
    :param x: training images ``(image, pixel)``, for ``"ica"`` and ``"energies"``.
    """
    names = check_starts(names)
    if x is None and (needy := [name for name in names if name in FROM_IMAGES]):
        raise HVAEError(f"start={needy[0]!r} is estimated from training images; give them (data=...)")
    if isinstance(vae.model, ContrastModel) and names:
        return start_with_contrast(vae, x, lambda base, images: start(base, names, images))
    for name in names:
        if name == "linear_regime" or x is None:
            start_in_linear_regime(vae)
        elif name == "ica":
            start_from_ica(vae, x)
        else:
            start_from_energies(vae, x[:ENERGY_IMAGES])
    return vae
