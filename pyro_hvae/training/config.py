"""How a pair is trained, as data: what :func:`~pyro_hvae.training.fit.fit` is told, filled in from the pair's recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_hvae.bounds.names import GRADIENTS, OBJECTIVES
from pyro_hvae.bounds.objectives import ELBO, Bound, ImportanceWeightedELBO, RenyiELBO
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.pair import GUIDES
from pyro_hvae.published import PublishedTraining, Training
from pyro_hvae.published.options import metadata
from pyro_hvae.published.recipes import recipe as make_recipe
from pyro_hvae.published.schedules import Schedule

RECORDED = tuple(name for name, about in metadata(Training).items() if about["recorded"])
"""Options of a training that decide its course, beside the pair, the objective and the data."""
_CLASSES: dict[str, type[Bound]] = {
    "elbo": ELBO,
    "importance_weighted": ImportanceWeightedELBO,
    "renyi": RenyiELBO,
}


@dataclass(frozen=True, kw_only=True)
class FitConfig(Training):
    """A training in which nothing is left to a recipe; its objective is an object beside it."""

    steps: int
    batch: int = 128
    learning_rate: Schedule = Schedule.constant(1e-3)
    beta: Mapping[str, Schedule]
    """Schedule of each site's beta; a site that is not named keeps the objective's own."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what a run directory records."""
        return {name: getattr(self, name) for name in RECORDED} | {
            "learning_rate": str(self.learning_rate),
            "beta": {site: str(schedule) for site, schedule in self.beta.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FitConfig:
        """Undo :meth:`to_dict`; unknown fields are errors, and one that is not there is as by default: the run is older."""
        for name in values:
            if name not in RECORDED:
                raise unknown("training field", name, RECORDED)
        return cls(**{
            **values,
            "learning_rate": Schedule.of(values["learning_rate"]),
            "beta": {site: Schedule.of(s) for site, s in values["beta"].items()},
        })  # fmt: skip


def training_of(vae: HVAE, recipe: str | None = None) -> PublishedTraining | None:
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


def fill_in(vae: HVAE, training: Training, recipe: str | None = None) -> FitConfig:
    """What is not given, from the pair's recipe.

    A recipe's schedules run over its number of steps; for another number they are stretched to it. Without a preset and a
    recipe the learning rate is 1e-3, the batch 128, and beta the objective's own.

    :raises HVAEError: for a pair without preset and recipe and no number of steps, and for sites in beta that it lacks.
    """
    published = training_of(vae, recipe)
    steps = training.steps
    if steps is None:
        if published is None:
            raise HVAEError("this pair has no preset to take the number of steps from; give steps=...")
        steps = published.steps
    of_recipe = Training() if published is None else published.over(steps)
    given = {}
    for name in (*RECORDED, "compile", "early_stopping"):
        value = getattr(training, name)
        value = getattr(of_recipe, name) if value is None else value
        if value is not None or name not in ("batch", "learning_rate"):
            given[name] = value
    given["steps"] = steps
    if training.learning_rate is not None:
        given["learning_rate"] = Schedule.of(training.learning_rate)
    betas = of_recipe.beta if isinstance(of_recipe.beta, Mapping) else {}
    betas = {site: schedule for site, schedule in betas.items() if site in vae.sites}
    if training.beta is not None:
        ours = training.beta if isinstance(training.beta, Mapping) else dict.fromkeys(vae.sites, training.beta)
        for site in ours:
            if site not in vae.sites:
                raise unknown("site in beta", site, vae.sites)
        betas |= ours
    given["beta"] = {site: Schedule.of(value) for site, value in betas.items()}
    return FitConfig(**given)


def default_objective(vae: HVAE, recipe: str | None = None, training: Training | None = None) -> Bound:
    """The objective of the pair's recipe with what the training names put in its place; the ELBO for a pair without both."""
    published = training_of(vae, recipe) or PublishedTraining(
        gradient="rao_blackwell" if guide_name(vae.guide) == "ladder" else "standard"
    )
    return chosen_objective(published, Training() if training is None else training)


def chosen_objective(published: PublishedTraining, training: Training) -> Bound:
    """The objective of a recipe with what the training names (not None) put in its place.

    :raises HVAEError: for a bound of several particles of which no number is known: with one it would be the ELBO.
    """
    name = published.objective if training.objective is None else training.objective
    particles = training.particles
    if particles is None:
        particles = published.particles
        if name != "elbo" and particles == 1:
            raise HVAEError(
                f"the objective {name!r} needs particles (--particles K), its number K of draws an image: with the 1 of this "
                "preset it would be the ELBO"
            )
    gradient = published.gradient if training.gradient is None else training.gradient
    return make_objective(name, particles, gradient, training.alpha)


def make_objective(name: str, num_particles: int = 1, gradient: str = "standard", alpha: float | None = None) -> Bound:
    """An objective by name (of :data:`~pyro_hvae.bounds.names.OBJECTIVES`)."""
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
    return _CLASSES[name](num_particles, gradient=gradient)


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
    classes = {cls.__name__: name for name, cls in _CLASSES.items()}
    if described["class"] not in classes:
        raise HVAEError(f"{described['class']} is not an objective of pyro_hvae; build it in your code and call fit(..., "
                        "resume=True)")  # fmt: skip
    name = classes[described["class"]]
    alpha = described["alpha"] if name == "renyi" else None
    objective = make_objective(name, described["num_particles"], described["gradient"], alpha)
    objective.beta = {"" if site == "all" else site: value for site, value in described["beta"].items()}
    return objective
