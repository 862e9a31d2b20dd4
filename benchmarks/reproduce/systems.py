"""What is trained: the systems of the papers, in the order in which they answer most questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class System:
    """One system under one recipe; trained once for each seed."""

    name: str
    preset: str
    seeds: tuple[int, ...] = (0, 1, 2)
    options: Mapping[str, Any] = field(default_factory=dict)
    """For :func:`pyro_hvae.build`."""
    recipe: str = "fast"
    start: str | None = None
    """Another start than the recipe's."""
    steps: int = 8000
    beta2: float | None = None
    """End of the schedule of beta of z2, where it is not the preset's."""
    train_patches: int = 300_000

    @property
    def size(self) -> int:
        """Side of the patches."""
        return 40 if self.preset.endswith(("40", "40n")) else 20


def systems() -> list[System]:
    """Full reproduction at 20 pixels, the fast recipe; then 40 pixels as far as the hardware goes."""
    rows = [
        System("TDVAE20", "TDVAE20"),
        System("TDVAE20, ladder", "TDVAE20", options={"guide": "ladder"}),
        System("SkipVAE20", "SkipVAE20"),
        System("ChainVAE20", "ChainVAE20"),
        System("LinearVAE20", "LinearVAE20"),
        System("LinearVAE20n", "LinearVAE20", options={"families": ("normal",)}),
        System("SkipVAE20, ladder", "SkipVAE20", options={"guide": "ladder"}),
        System("TD-IWAE20, k = 1", "TD-IWAE20-k1"),
        System("TD-IWAE20, k = 4", "TD-IWAE20-k4"),
        System("TD-IWAE20, k = 10", "TD-IWAE20-k10"),
        System("TD-IWAE20, k = 50", "TD-IWAE20"),
        System("TDVAE20125", "TDVAE20", beta2=1.25),
    ]
    rows += [
        System(f"{preset}, dim z2 = {dim}", preset, (0,), {"dim_z2": dim})
        for dim in (5, 10, 40, 70, 140)
        for preset in ("TDVAE20", "SkipVAE20")
    ]
    rows += [
        System("TDVAE20, published recipe", "TDVAE20", (0,), recipe="published", steps=1_000_000),
        System("TDVAE20, ladder, 300,000 steps", "TDVAE20", (0,), {"guide": "ladder"}, steps=300_000),
    ]
    # FastICA of 1256 components takes an hour of one core.
    rows += [
        System(name, name, (0,), start="linear_regime", steps=20_000, train_patches=100_000)
        for name in ("LinearVAE40", "TDVAE40", "TDVAE40n")
    ]
    return rows


def small_systems() -> list[System]:
    """The cut-down form: what the main findings need, on fewer patches and steps."""
    common: dict[str, Any] = {"seeds": (0,), "steps": 2500, "train_patches": 60_000}
    return [
        System("TDVAE20, ladder", "TDVAE20", options={"guide": "ladder"}, **common),
        System("LinearVAE20, ladder", "LinearVAE20", options={"guide": "ladder"}, **common),
        System("LinearVAE20n, ladder", "LinearVAE20", options={"guide": "ladder", "families": ("normal",)}, **common),
        System("TDVAE20", "TDVAE20", **common),
        System("ChainVAE20", "ChainVAE20", **common),
    ]
