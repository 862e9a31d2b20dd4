"""How a published system is trained, by name: as its paper says, or with what gets there in minutes.

``published``
    The paper's own: PyTorch's initialisation, its learning rate, beta schedule, batch and number of steps.
``fast``
    z1 started at the independent components of the training patches and z2 at their energies, a larger learning rate that
    falls over the last 40 per cent, long gradients clipped, beta2 from 0.1 to its published end over the first half, and z1
    integrated out in closed form wherever the guide allows. ``docs/recipes.md`` has the measurements.

Model, guide, sizes, objective and particles are the preset's under both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyro_hvae.errors import unknown
from pyro_hvae.published.options import RECIPES
from pyro_hvae.published.presets import PRESETS, Preset, PublishedTraining, preset
from pyro_hvae.published.schedules import Schedule

FAST_RATE = 4e-4
FAST_STEPS = 8000
_FALL = Schedule(((0, FAST_RATE), (0.6, FAST_RATE), (1, FAST_RATE / 10)))


@dataclass(frozen=True)
class Recipe:
    """How a pair is started and trained."""

    start: tuple[str, ...]
    """Names of :data:`pyro_hvae.starts.STARTS`; none for PyTorch's initialisation."""
    training: PublishedTraining


def recipe(name: str, system: str | Preset | None, guide: str | None) -> Recipe:
    """The recipe of that name for a published system, or for a pair of one's own.

    :param system: preset, or its name; None for a pair without one.
    :param guide: name of the guide (a key of :data:`pyro_hvae.programs.GUIDES`), None for a guide of one's own: whether z1 can
        be integrated out depends on it.
    :raises HVAEError: for an unknown recipe or preset.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    p = preset(system) if isinstance(system, str) else system
    training = p.training if p is not None else PublishedTraining(learning_rate=Schedule.constant(1e-3), beta={})
    if name == "published":
        # The ladder guide was published with no system; its z1 is in closed form unless another gradient is asked for.
        return Recipe((), replace(training, gradient="rao_blackwell") if guide == "ladder" else training)
    layers = 2 if p is None else len(p.dims)
    end = training.beta["z2"].knots[-1][1] if "z2" in training.beta else 1.0
    closed = guide == "ladder" or (guide in ("top_down", "mean_field") and training.objective == "elbo")
    return Recipe(
        ("ica", "energies") if layers == 2 else ("ica",),
        replace(
            training,
            learning_rate=_FALL,
            batch=200,
            epochs=1,
            steps_per_epoch=FAST_STEPS,
            beta={"z1": Schedule.constant(1)} | ({"z2": Schedule(((0, 0.1 * end), (0.5, end)))} if layers > 1 else {}),
            clip=300.0,
            gradient="rao_blackwell" if closed else "standard",
        ),
    )


def table() -> list[dict[str, str]]:
    """What the fast recipe does with each preset, as printed by ``pyro-hvae presets``; other guides under the ladder's name."""
    rows = []
    for p in PRESETS.values():
        for guide in (p.guide, "ladder"):
            found = recipe("fast", p, guide)
            how = found.training
            rows.append(
                {
                    "name": p.name,
                    "guide": guide,
                    "start": ", ".join(found.start),
                    "gradient": how.gradient,
                    "learning rate": _in_shares(how.learning_rate),
                    "beta2": _in_shares(how.beta["z2"]) if "z2" in how.beta else "–",
                    "clip": f"{how.clip:g}",
                    "batch": str(how.batch),
                    "steps": str(how.steps),
                }
            )
    return rows


def _in_shares(schedule: Schedule) -> str:
    """``"0.1, 1 at 50%"``: values at shares of the run, linear in between."""
    return ", ".join(f"{v:g}" + (f" at {share:.0%}" if share else "") for share, v in schedule.knots)
