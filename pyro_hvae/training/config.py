"""How a pair is trained, as data: what :func:`~pyro_hvae.training.fit.fit` is told, filled in from the preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pyro_hvae.arguments import as_annotated, seed_of, whole_number
from pyro_hvae.bounds.gradients import GRADIENTS
from pyro_hvae.bounds.objectives import ELBO, Bound, ImportanceWeightedELBO, RenyiELBO
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.pair import GUIDES
from pyro_hvae.published import Training
from pyro_hvae.published.recipes import recipe as make_recipe
from pyro_hvae.training.schedules import Schedule

OBJECTIVES = {"elbo": ELBO, "importance_weighted": ImportanceWeightedELBO, "renyi": RenyiELBO}
PARTS = ("both", "model", "guide")
PRECISIONS = ("float32", "tf32", "bfloat16")
Value = float | str | Schedule


@dataclass(frozen=True)
class FitConfig:
    """Everything that decides the course of a training run, beside the pair, the objective and the data."""

    steps: int
    batch: int = 128
    learning_rate: Schedule = field(default_factory=lambda: Schedule.constant(1e-3))
    beta: tuple[tuple[str, Schedule], ...] = ()
    """Schedule of each site's beta; a site that is not named keeps the objective's own."""
    train: str = "both"
    """Which programs are trained: ``"both"``, or the ``"guide"`` on a generative model left as it is, or the ``"model"``."""
    clip: float | None = None
    """Largest norm of the gradient of the mean loss; longer ones are shortened to it."""
    skip: float | None = None
    """Norm above which a step is not taken at all."""
    log_every: int = 50
    evaluate_every: int = 1000
    evaluate_images: int = 2000
    """Held-out patches used for the evaluation while training, at most."""
    checkpoint_every: int = 1000
    seed: int = 0
    precision: str = "float32"
    """Of matrix products: ``"float32"``, ``"tf32"`` (CUDA) or ``"bfloat16"`` (everything autocast does in it)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "evaluate_every", "evaluate_images", "checkpoint_every"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))
        object.__setattr__(self, "seed", seed_of(self.seed))
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.train not in PARTS:
            raise unknown("value of train", self.train, PARTS)
        for name in ("clip", "skip"):
            value = as_annotated(name, getattr(self, name), float | None)
            object.__setattr__(self, name, value)
            if value is not None and not value > 0:
                raise HVAEError(f"{name} is a norm and must be positive (or None for never), got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {
            "learning_rate": str(self.learning_rate),
            "beta": {site: str(schedule) for site, schedule in self.beta},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FitConfig:
        """Undo :meth:`to_dict`; unknown fields are errors."""
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise unknown("training field", name, known)
        return cls(**{
            **values,
            "learning_rate": Schedule.of(values["learning_rate"]),
            "beta": tuple((site, Schedule.of(s)) for site, s in values["beta"].items()),
        })  # fmt: skip


def training_of(vae: HVAE, recipe: str | None = None) -> Training | None:
    """How a pair is trained where nothing else is said: by the recipe of that name, or the one it was built with.

    :returns: None for a pair without a preset under the published recipe.
    """
    name = vae.recipe if recipe is None else recipe
    if name == "published" and vae.preset is None:
        return None
    return make_recipe(name, vae.preset, guide_name(vae.guide)).training


def guide_name(guide: Any) -> str | None:
    """Name of a guide of ours."""
    return next((name for name, cls in GUIDES.items() if type(guide) is cls), None)


def make_config(
    vae: HVAE,
    *,
    recipe: str | None = None,
    steps: int | None,
    batch: int | None,
    learning_rate: Value | None,
    beta: Value | Mapping[str, Value] | None,
    clip: float | None = None,
    **rest: Any,
) -> FitConfig:
    """Fill in what is not given from the pair's recipe.

    A recipe's schedules run over its number of steps; for another number they are stretched to it. Without a preset and a
    recipe the learning rate is 1e-3, the batch 128, and beta the objective's own.
    """
    training = training_of(vae, recipe)
    if steps is None:
        if training is None:
            raise HVAEError("this pair has no preset to take the number of steps from; give steps=...")
        steps = training.steps
    given: dict[str, Any] = {"clip": clip}
    if training is not None:
        factor = steps / training.epochs  # knots are in epochs
        given["batch"] = training.batch
        given["learning_rate"] = Schedule(training.learning_rate).stretched(factor)
        given["beta"] = tuple(
            (site, Schedule(knots).stretched(factor)) for site, knots in training.beta.items() if site in vae.sites
        )
        given["clip"] = training.clip if clip is None else clip
    if batch is not None:
        given["batch"] = batch
    if learning_rate is not None:
        given["learning_rate"] = Schedule.of(learning_rate)
    if beta is not None:
        by_site = beta if isinstance(beta, Mapping) else dict.fromkeys(vae.sites, beta)
        for site in by_site:
            if site not in vae.sites:
                raise unknown("site in beta", site, vae.sites)
        given["beta"] = tuple(
            ({**dict(given.get("beta", ())), **{s: Schedule.of(v) for s, v in by_site.items()}}).items()
        )
    return FitConfig(steps=steps, **given, **rest)


def default_objective(
    vae: HVAE,
    recipe: str | None = None,
    *,
    name: str | None = None,
    num_particles: int | None = None,
    gradient: str | None = None,
    alpha: float | None = None,
) -> Bound:
    """The objective of the pair's recipe with what is given put in its place; the ELBO for a pair without preset and recipe."""
    training = training_of(vae, recipe) or Training(
        gradient="rao_blackwell" if guide_name(vae.guide) == "ladder" else "standard"
    )
    return chosen_objective(training, name, num_particles, gradient, alpha)


def chosen_objective(
    training: Training, name: str | None, num_particles: int | None, gradient: str | None, alpha: float | None = None
) -> Bound:
    """The objective of a training with what is given (not None) put in its place.

    :raises HVAEError: for a bound of several particles of which no number is known: with one it would be the ELBO.
    """
    name = training.objective if name is None else name
    if num_particles is None:
        num_particles = training.num_particles
        if name in OBJECTIVES and name != "elbo" and num_particles == 1:
            raise HVAEError(
                f"the objective {name!r} needs particles (--particles K), its number K of draws an image: with the 1 of this "
                "preset it would be the ELBO"
            )
    return make_objective(name, num_particles, training.gradient if gradient is None else gradient, alpha)


def make_objective(name: str, num_particles: int = 1, gradient: str = "standard", alpha: float | None = None) -> Bound:
    """An objective by name (a key of :data:`OBJECTIVES`)."""
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    if gradient not in GRADIENTS:
        raise unknown("gradient", gradient, GRADIENTS)
    if (name == "renyi") != (alpha is not None):
        raise HVAEError(
            f"alpha belongs to the objective 'renyi' and to it alone; got objective {name!r}, alpha={alpha}"
        )
    if alpha is not None:
        return RenyiELBO(alpha, num_particles, gradient=gradient)
    return OBJECTIVES[name](num_particles, gradient=gradient)


def describe_objective(objective: Any) -> dict[str, Any]:
    """JSON-ready description of an objective, for configurations and files."""
    described: dict[str, Any] = {"class": type(objective).__name__, "num_particles": objective.num_particles}
    if isinstance(objective, Bound):
        described["gradient"] = objective.gradient
        described["beta"] = {site or "all": float(value) for site, value in objective.beta.items()}
    if hasattr(objective, "alpha"):
        described["alpha"] = float(objective.alpha)
    return described


def objective_from(described: Mapping[str, Any]) -> Bound:
    """Undo :func:`describe_objective` for an objective of ours."""
    classes = {cls.__name__: name for name, cls in OBJECTIVES.items()}
    if described["class"] not in classes:
        raise HVAEError(f"{described['class']} is not an objective of pyro_hvae; build it in your code and call fit(..., "
                        "resume=True)")  # fmt: skip
    name = classes[described["class"]]
    alpha = described["alpha"] if name == "renyi" else None
    objective = make_objective(name, described["num_particles"], described["gradient"], alpha)
    objective.beta = {"" if site == "all" else site: value for site, value in described["beta"].items()}
    return objective
