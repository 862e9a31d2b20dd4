"""An example of every command, shown by its ``--help``; the tests run them as they stand, in this order."""

from __future__ import annotations

START = (
    "pyro-hvae demo --steps 400 --out runs/look",
    'pyro-hvae export "$(pyro-hvae references TDVAE20-ladder)" --limit 200 --out posterior.nc',
    "pyro-hvae analyse posterior.nc --out report",
)
"""What ``pyro-hvae`` alone shows: two minutes from nothing to a report, and a pair that was trained for longer."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("pyro-hvae demo --steps 400 --out runs/demo",),
    "train": (
        "pyro-hvae train LinearVAE20 --recipe fast --steps 400 --out runs/first",
        "pyro-hvae train --resume --steps 600 --out runs/first",
    ),
    "export": ("pyro-hvae export runs/first --limit 200 --out runs/first/posterior.nc",),
    "analyse": ("pyro-hvae analyse runs/first/posterior.nc --out runs/first/report",),
    "evidence": ("pyro-hvae evidence runs/first --limit 20 --particles 500",),
    "yardstick": ("pyro-hvae yardstick runs/first",),
    "audit": (
        'pyro-hvae audit "$(pyro-hvae references LinearVAE20)" --limit 2 --samples 100 --warmup 100 --out audit.nc',
    ),
    "physiology": (
        "pyro-hvae physiology --reference LinearVAE20 --parts gratings contrast --units 4 --out physiology",
    ),
    "predict": ("pyro-hvae predict runs/first/posterior.nc responses.npz --out neurons.png",),
    "sweep": ("pyro-hvae sweep LinearVAE20 --axis seed 0 1 --steps 20 --train-patches 1000 --out sweep",),
    "stimuli": ("pyro-hvae stimuli gratings --size 20 --out gratings.nc",),
    "presets": ("pyro-hvae presets",),
    "references": ("pyro-hvae references TDVAE20-ladder",),
    "pack": ("pyro-hvae pack runs/first --out first-packed",),
    "doctor": ("pyro-hvae doctor",),
    "completion": ("pyro-hvae completion bash > pyro-hvae.bash",),
}


def epilog(command: str, more: str | None) -> str:
    """What stands below the options of a command."""
    lines = "\n".join(f"  {line}" for line in EXAMPLES[command])
    return f"{more}\n\nexample:\n{lines}" if more else f"example:\n{lines}"
