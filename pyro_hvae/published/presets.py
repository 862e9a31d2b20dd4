"""Every published configuration, as data.

Sources: [C22] Csikor et al. 2022, arXiv 2206.00436; [V24] Vas 2024, MSc thesis, ELTE; "release": read in public
ports of the weights that the authors of [C22] released; [C24] Catoni et al. 2024, arXiv 2404.15390, and the code published
with it. The observation noise 0.4 is that of [V24], the release and [C24] ([C22] prints the identity). What a source
leaves open is filled in here and said so in the preset's note. [C22] and [V24] clip gradients at unpublished thresholds
(in [C22] so high that they act on fewer than 1e-6 of the steps): none is set here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pyro_hvae.bounds.names import GradientName, ObjectiveName
from pyro_hvae.errors import unknown
from pyro_hvae.published.options import Training
from pyro_hvae.published.schedules import Schedule

Knots = tuple[tuple[float, float], ...]  # (epoch, value), linear in between; a repeated epoch is a jump


@dataclass(frozen=True, kw_only=True)
class PublishedTraining(Training):
    """A training as papers state it: its schedules are in epochs, and ``steps`` follow from their number."""

    objective: ObjectiveName = "elbo"
    particles: int = 1
    learning_rate: Schedule = field(default_factory=lambda: Schedule.constant(5e-5))
    batch: int = 128
    epochs: int = 6750
    steps_per_epoch: int = 5000  # 640,000 patches / 128
    steps: int = field(init=False)
    beta: dict[str, Schedule] = field(default_factory=lambda: {"z1": Schedule.constant(1), "z2": Schedule.constant(1)})
    gradient: GradientName = "standard"  # see docs/gradients.md

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", self.epochs * self.steps_per_epoch)
        super().__post_init__()

    def over(self, steps: int) -> Training:
        """The training with its schedules in steps, stretched to that number of them."""
        factor = steps / self.epochs
        stretched = {
            "steps": steps,
            "learning_rate": self.learning_rate.stretched(factor),
            "beta": {site: schedule.stretched(factor) for site, schedule in self.beta.items()},
        }
        return Training.among(vars(self) | stretched)


@dataclass(frozen=True)
class Preset:
    """A published system: which model, which guide, which sizes, trained how."""

    name: str
    model: str
    guide: str
    patch: int
    dims: tuple[int, ...]
    training: PublishedTraining
    families: tuple[str, ...] = ("laplace", "normal")
    noise: float = 0.4
    contrast: bool = False
    """Whether a scalar c multiplies what z1 does to the image."""
    dependent: bool = True
    """Whether the published guide infers the layers given c."""
    source: str = "[C22]"
    note: str = ""

    @property
    def pixels(self) -> int:
        return self.patch**2


# A beta2 schedule read in a release: 0.1 for 500 epochs, then linear to its final value over 1150.
def _beta125() -> dict[str, Schedule]:
    return {"z1": Schedule.constant(1.0), "z2": Schedule(((0, 0.1), (500, 0.1), (1650, 1.25)))}


_LR_20 = Schedule(((0, 1e-4), (3375, 1e-4), (3375, 5e-5), (5060, 5e-5), (5060, 2.5e-5)))
_C22_20 = PublishedTraining(learning_rate=_LR_20)
_V24 = PublishedTraining(
    objective="importance_weighted",
    learning_rate=Schedule.constant(1e-4),
    batch=400,
    epochs=5000,
    steps_per_epoch=1600,
    beta={"z1": Schedule.constant(1.0), "z2": Schedule(((0, 0.1), (2500, 1.0)))},
)
# beta of c: 10 for 100 epochs, then linear to 1 over 100.
_C24 = PublishedTraining(
    learning_rate=Schedule.constant(3e-5),
    batch=512,
    epochs=5000,
    steps_per_epoch=1000,
    beta={"z1": Schedule.constant(1.0), "c": Schedule(((0, 10.0), (100, 10.0), (200, 1.0)))},
)
_NO_EPOCHS = "epochs not published: TDVAE40's"
_LR_RANGE = "learning rate published as a range, lowered until z2 stops changing, here at fixed epochs; " + _NO_EPOCHS
_LINEAR_20 = "hidden units are LinearVAE40's, scaled as those of the other 20-pixel networks"


def _z1_only(training: PublishedTraining) -> PublishedTraining:
    return replace(training, beta={"z1": Schedule.constant(1.0)})


def _td_iwae(k: int) -> Preset:
    name = "TD-IWAE20" if k == 50 else f"TD-IWAE20-k{k}"
    return Preset(name, "markov", "top_down", 20, (450, 20), replace(_V24, particles=k), source="[V24]")


_ALL = (
    Preset("LinearVAE40", "linear", "mean_field", 40, (1800,),
           _z1_only(PublishedTraining(learning_rate=Schedule.constant(3e-5), epochs=6000)), ("laplace",),
           note="30 million steps (release)"),
    Preset("TDVAE40", "markov", "top_down", 40, (1800, 250),
           PublishedTraining(learning_rate=Schedule(((0, 5e-5), (3375, 5e-5), (3375, 2.5e-5)))),
           note="33.75 million steps (release); when the rate was halved is not published"),
    Preset("TDVAE40n", "markov", "top_down", 40, (1800, 250), PublishedTraining(), ("normal", "normal"), note=_NO_EPOCHS),
    Preset("TDVAE40125", "markov", "top_down", 40, (1800, 250), PublishedTraining(beta=_beta125()),
           note="beta2 schedule from a release; " + _NO_EPOCHS),
    Preset("SkipVAE40", "skip", "top_down", 40, (1800, 250),
           PublishedTraining(learning_rate=Schedule.constant(2e-5)), note=_NO_EPOCHS),
    Preset("TDVAE20", "markov", "top_down", 20, (450, 20), _C22_20, note="dim z2 5-140 in [C22]; " + _LR_RANGE),
    Preset("SkipVAE20", "skip", "top_down", 20, (450, 20),
           replace(_C22_20, learning_rate=Schedule(((0, 1e-4), (3375, 1e-4), (3375, 5e-5)))),
           note="dim z2 5-140 in [C22]; " + _LR_RANGE),
    Preset("ChainVAE20", "markov", "bottom_up", 20, (450, 70), PublishedTraining(learning_rate=Schedule.constant(1e-5)),
           note=_NO_EPOCHS),
    Preset("ChainVAE20125", "markov", "bottom_up", 20, (450, 70),
           PublishedTraining(learning_rate=Schedule.constant(1e-5), beta=_beta125()),
           note="beta2 = 1.25 by its name, schedule from a release; " + _NO_EPOCHS),
    Preset("LinearVAE20", "linear", "mean_field", 20, (450,),
           _z1_only(replace(_V24, objective="elbo")), ("laplace",), source="[V24]",
           note=_LINEAR_20 + "; trained as its TD-IWAE"),
    Preset("LinearIWAE20", "linear", "mean_field", 20, (450,),
           _z1_only(replace(_V24, particles=50)), ("laplace",), source="[V24]",
           note=_LINEAR_20 + "; k is the largest of its TD-IWAE"),
    *map(_td_iwae, (1, 4, 10, 50)),
    Preset("EA-LinearVAE20", "linear", "mean_field", 20, (450,),
           _C24, ("laplace",), contrast=True, dependent=False, source="[C24]",
           note="published at 40 pixels; the variant with LogNormal c; " + _LINEAR_20),
    Preset("EA-TDVAE20", "markov", "top_down", 20, (450, 20), _C22_20, contrast=True, source="ours",
           note="TDVAE20 with the c of [C24]; never published"),
)  # fmt: skip

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


def preset(name: str) -> Preset:
    """The published configuration of that name; an unknown one is an error that names the nearest."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS, hint="See `pyro-hvae presets`.")
    return PRESETS[name]


def table() -> list[dict[str, str]]:
    """One row a preset, as printed by ``pyro-hvae presets``."""
    return [
        {
            "name": p.name,
            "model": f"{p.model} × c" if p.contrast else p.model,
            "guide": p.guide,
            "patch": f"{p.patch}×{p.patch}",
            "z1": f"{p.dims[0]} {p.families[0].capitalize()}",
            "z2": str(p.dims[1]) if len(p.dims) > 1 else "–",
            "objective": "ELBO" if p.training.objective == "elbo" else f"IW k={p.training.particles}",
            "beta1": format_knots(p.training.beta["z1"].knots),
            "beta2": format_knots(p.training.beta["z2"].knots) if "z2" in p.training.beta else "–",
            "learning rate": format_knots(p.training.learning_rate.knots),
            "batch": str(p.training.batch),
            "epochs": f"{p.training.epochs}×{p.training.steps_per_epoch}",
            "source": p.source,
            "note": p.note,
        }
        for p in PRESETS.values()
    ]


def format_knots(knots: Knots) -> str:
    """``"0.1→1 (2500)"``: values, and the epoch at which the last one is reached."""
    values = [f"{v:g}" for i, (_, v) in enumerate(knots) if i == 0 or v != knots[i - 1][1]]
    return "→".join(values) + (f" ({knots[-1][0]:g})" if len(values) > 1 else "")
