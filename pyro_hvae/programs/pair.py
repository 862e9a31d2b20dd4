"""HVAE: one generative model and one recognition model over the same sites."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_hvae.arguments import whole_number
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs.contrast import ContrastGuide, ContrastModel
from pyro_hvae.programs.guides import BottomUpGuide, MeanFieldGuide, TopDownGuide
from pyro_hvae.programs.ladder import LadderGuide
from pyro_hvae.programs.models import LinearModel, MarkovModel, SkipModel
from pyro_hvae.programs.program import LayeredProgram, Program, described, evaluating, is_stochastic, nodes
from pyro_hvae.programs.widths import published_hidden

MODELS: dict[str, type[LayeredProgram]] = {"linear": LinearModel, "markov": MarkovModel, "skip": SkipModel}
GUIDES: dict[str, type[LayeredProgram]] = {
    "top_down": TopDownGuide,
    "bottom_up": BottomUpGuide,
    "mean_field": MeanFieldGuide,
    "ladder": LadderGuide,
}
# Programs around one of those, which is what names ask for.
AROUND: dict[str, type[Program]] = {"model": ContrastModel, "guide": ContrastGuide}


class HVAE(nn.Module):
    """A model/guide pair over the same sites.

    :param model: a Pyro program ``model(x=None)`` with latent sites and the observed site ``x`` in one plate ``image``;
        one of ours or any ``nn.Module`` of your own.
    :param guide: a Pyro program ``guide(x)`` with the same latent sites.
    :param pixels: image size for the check of the pair; needed only when the model has no attribute ``pixels``.
    :param preset: name of the published configuration, kept for the record.
    :param images: ``(image, pixel)`` on which the pair is checked, for guides that know certain images alone.
    :ivar recipe: name of the recipe that it is trained by where nothing else is said.
    :ivar starts: how the pair was started before training, one entry a start (JSON-ready).
    :ivar record: how the pair was trained (JSON-ready), for the posterior files made from it; empty before training.
    :raises HVAEError: if the two do not fit: other sites, other sizes.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        *,
        pixels: int | None = None,
        preset: str | None = None,
        images: Tensor | None = None,
    ):
        super().__init__()
        for kind, program in (("model", model), ("guide", guide)):
            if not isinstance(program, nn.Module):
                raise HVAEError(
                    f"the {kind} must be an nn.Module whose forward is the Pyro program, got {type(program).__name__}: what a "
                    "function takes from pyro.param or pyro.module is Pyro's global store's, and would be neither moved to a "
                    "device, saved nor loaded with the pair. Make it a class with its networks and nn.Parameters as attributes"
                )
        self.model, self.guide, self.preset = model, guide, preset
        self.recipe = "published"
        self.starts: list[dict[str, Any]] = []
        self.record: dict[str, Any] = {}
        given = pixels if pixels is not None else getattr(model, "pixels", None)
        if given is None:
            raise HVAEError(
                "the model has no attribute 'pixels'; give HVAE(model, guide, pixels=...) so that the pair "
                "can be checked on an image"
            )
        self.pixels = whole_number("pixels", given, 1)
        if getattr(guide, "shared", ()) not in ((), (model,)):
            raise HVAEError(
                f"this {type(guide).__name__} reads p(zl | zl+1) from another model than the one of the pair, so its q would "
                'not be its product with what the model expects; build it for this model: vae.with_guide("ladder")'
            )
        with evaluating(self):
            if images is None:
                self.latents = check_pair(model, guide, self._probe(2))
                check_pair(model, guide, self._probe(3))  # a program for two images alone is none
            else:
                self.latents = check_pair(model, guide, images)
            check_parameters(self, self._probe(2) if images is None else images)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the latent sites, in the model's order read bottom-up (z1 first in our own models)."""
        return tuple(self.latents)

    def with_guide(self, guide: str | nn.Module, **options: Any) -> HVAE:
        """The very same generative model (shared parameters, not a copy) under another recognition model.

        The ladder guide starts in closed form from the model, with a copy of this pair's q(zL | x) where that is read from the
        image by layers of the same sizes (it then has ``reads="image"``): of a trained pair it is of use at once. To train it,
        ask for ``reads="evidence"``.

        :param guide: ``"ladder"``, ``"top_down"``, ``"bottom_up"``, ``"mean_field"``, or a guide of your own.
        :param options: hidden units and choices for a guide given by name; by default the published ones for this patch size.
        """
        if isinstance(guide, str):
            name, guide = guide, make_guide(guide, self.model, **options)
            if isinstance(guide, ContrastGuide) and isinstance(self.guide, ContrastGuide):
                guide.to(self._probe()).adopt(self.guide)
            if (
                isinstance(guide, LadderGuide)
                and not LadderGuide.adopt(guide.to(self._probe()), self.guide)
                and "reads" not in options
            ):
                as_read = make_guide(name, self.model, reads="image", **options).to(self._probe())
                guide = as_read if as_read.adopt(self.guide) else guide
        elif options:
            raise HVAEError(f"options {sorted(options)} configure a guide given by name; this one is already built")
        guide.to(self._probe())  # device and precision of the model
        other = HVAE(self.model, guide, pixels=self.pixels, preset=self.preset)
        other.recipe, other.starts = self.recipe, list(self.starts)
        return other

    @property
    def config(self) -> dict[str, Any]:
        """What :func:`from_config` needs to rebuild the pair; programs of your own appear by their class."""
        config = {
            "preset": self.preset,
            "pixels": self.pixels,
            "model": described(self.model),
            "guide": described(self.guide),
        }
        return config if self.dtype == torch.float32 else config | {"dtype": str(self.dtype).removeprefix("torch.")}

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters, in which everything is computed; float32 for a pair without any.

        :raises HVAEError: for parameters of half precision, or of several.
        """
        found = {p.dtype for p in self.parameters() if p.is_floating_point()} or {torch.float32}
        if len(found) > 1 or not found <= {torch.float32, torch.float64}:
            names = ", ".join(sorted(str(dtype) for dtype in found))
            raise HVAEError(
                f"the pair has parameters of {names}; they are all of float32 or all of float64 (vae.float(), vae.double()). "
                "For faster products train with precision='bfloat16', which keeps float32 parameters"
            )
        return found.pop()

    def _probe(self, images: int = 2) -> Tensor:
        reference = next(self.model.parameters(), torch.zeros(()))
        return reference.new_zeros(images, self.pixels)


def program_from_config(
    config: dict[str, Any], known: Mapping[str, type[Program]], kind: str, model: nn.Module | None = None
) -> Program:
    """Build a model or guide from its ``config``; unknown classes and fields are errors that name the nearest match.

    :param model: for guides that read from it.
    """
    arguments = dict(config)
    classes = {c.__name__: c for c in (*known.values(), AROUND[kind])}
    name = arguments.pop("class", None)
    if name not in classes:
        raise unknown(
            f"{kind} class", name, classes, hint="A program of your own must be built by your code and passed in."
        )
    if issubclass(classes[name], AROUND[kind]) and "base" in arguments:
        arguments["base"] = program_from_config(arguments["base"], known, kind, getattr(model, "base", None))
    return construct(classes[name], arguments, kind, model)


def construct(cls: type[Program], arguments: dict[str, Any], kind: str, model: nn.Module | None = None) -> Any:
    """``cls(**arguments)``, with the model first where ``cls`` reads from one; unknown fields are refused by name."""
    fields = [name for name in inspect.signature(cls).parameters if name != "model"]
    for field in arguments:
        if field not in fields:
            raise unknown(f"field of {kind} {cls.__name__}", field, fields)
    return cls(model, **arguments) if reads_model(cls) else cls(**arguments)


def reads_model(cls: type[Program]) -> bool:
    """Whether a guide of that class is built for one model, from which it takes its sizes."""
    return "model" in inspect.signature(cls).parameters


def from_config(config: dict[str, Any]) -> HVAE:
    """The pair that ``HVAE.config`` describes, freshly initialised."""
    model = program_from_config(config["model"], MODELS, "model")
    guide = program_from_config(config["guide"], GUIDES, "guide", model)
    vae = HVAE(model, guide, preset=config.get("preset"))
    return vae.double() if config.get("dtype") == "float64" else vae


def make_guide(name: str, model: nn.Module, **options: Any) -> Program:
    """A guide by name for a model of ours, with the published hidden units unless ``options`` say otherwise.

    Of a :class:`~pyro_hvae.programs.contrast.ContrastModel` a :class:`~pyro_hvae.programs.contrast.ContrastGuide` around it;
    ``dependent`` is the option of that, the others are its base's.
    """
    if name not in GUIDES:
        raise unknown("guide", name, GUIDES)
    if isinstance(model, ContrastModel):
        dependent = options.pop("dependent", True)
        wider = {} if name == "ladder" or not dependent else {"pixels": model.pixels + 1}
        base: Any = make_guide(name, model.base, **wider, **options)
        return ContrastGuide(model, base, dependent=dependent)
    if not isinstance(model, LayeredProgram):
        raise HVAEError(
            f"{type(model).__name__} is not one of our models, so its layers are not known; "
            "build the guide yourself and pass the object"
        )
    sizes = {} if reads_model(GUIDES[name]) else dict(pixels=model.pixels, dims=model.dims, families=model.families)
    return construct(GUIDES[name], sizes | published_hidden(model.pixels, model.layers)[name] | options, "guide", model)


def check_pair(model: Callable, guide: Callable, x: Tensor) -> dict[str, int]:
    """Run the pair once on ``x (image, pixel)`` and refuse it if the two do not fit.

    :returns: the latent sites and their dimensions, in reverse order of the model's sampling.
    """
    with torch.no_grad():
        guide_trace, model_trace = _traced(guide, x), _traced(model, x)
    inferred, latent = _sites(guide_trace, False), _sites(model_trace, False)
    observed = _sites(model_trace, True)
    names = type(model).__name__, type(guide).__name__
    if set(observed) != {"x"}:
        raise HVAEError(
            f"{names[0]} must observe the image at one site named 'x' (obs=x) when called with it; observed sites: "
            f"{sorted(observed) or 'none'}"
        )
    if missing := sorted(set(latent) - set(inferred)):
        raise HVAEError(
            f"{names[1]} does not infer {', '.join(missing)} of {names[0]}: model sites {sorted(latent)}, "
            f"guide sites {sorted(inferred)}; give the guide every latent site of the model"
        )
    if extra := sorted(set(inferred) - set(latent)):
        raise HVAEError(
            f"{names[1]} infers {', '.join(extra)}, which {names[0]} does not have: model sites "
            f"{sorted(latent)}, guide sites {sorted(inferred)}; use a model with that layer or a guide without"
        )
    for where, trace in zip(names, (model_trace, guide_trace), strict=True):
        for name in _sites(trace, False) | _sites(trace, True):
            if (batch := tuple(nodes(trace)[name]["fn"].batch_shape)) != (len(x),):
                raise HVAEError(
                    f"site {name} of {where} has batch shape {batch} for {len(x)} images, expected ({len(x)},): sample it "
                    "inside `with pyro.plate('image', len(x), dim=-1)`, the dimension as event (.to_event(1))"
                )
    for name, shape in latent.items():
        if inferred[name] != shape:
            raise HVAEError(
                f"site {name} has shape {shape} in {names[0]} and {inferred[name]} in {names[1]} "
                "(image, dimension); build both with the same dims"
            )
    return {name: math.prod(latent[name][1:]) for name in reversed(list(latent))}


def _traced(program: Callable, x: Tensor) -> Trace:
    try:
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            return poutine.trace(program).get_trace(x)
    except HVAEError:
        raise
    except Exception as error:  # whatever a program of the user's own raises
        raise HVAEError(
            f"{type(program).__name__} cannot be run on {len(x)} images, x of shape {tuple(x.shape)} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); it has to take any number of images, all at "
            "once: sample inside `with pyro.plate('image', len(x), dim=-1):` with obs=x. Of a larger data set it says so by "
            "pyro.plate('image', size, subsample_size=len(x), dim=-1), without x[i]"
        ) from error


def check_parameters(vae: HVAE, x: Tensor) -> None:
    """Refuse a pair with ``pyro.param`` statements of its own, which would be neither trained nor saved."""
    own = {id(p) for p in vae.parameters()}
    with torch.enable_grad(), pyro.validation_enabled(False):
        for program in (vae.model, vae.guide):
            trace = _traced(program, x)
            if not trace.param_nodes:
                continue
            density = torch.as_tensor(trace.log_prob_sum())
            for name in trace.param_nodes if density.requires_grad else ():
                value = trace.nodes[name]["value"]
                leaf = getattr(value, "unconstrained", lambda value=value: value)()
                # Unused ones are left over from an earlier PyroModule of the same names.
                if id(leaf) not in own and leaf.requires_grad and _depends(density, leaf):
                    raise HVAEError(
                        f"{type(program).__name__} takes the parameter {name!r} from pyro.param or pyro.module, where it would "
                        "be neither trained nor saved: make it an nn.Parameter or module of the program, or a PyroParam of a "
                        "PyroModule"
                    )


def _depends(density: Tensor, leaf: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(density, leaf, retain_graph=True, allow_unused=True)
    return gradient is not None


def _sites(trace: Trace, observed: bool) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(node["value"].shape)
        for name, node in nodes(trace).items()
        if is_stochastic(node) and node["is_observed"] == observed
    }
