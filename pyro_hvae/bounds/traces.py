"""Traces of a pair over K particles, and what has to hold of them for per-image bounds to be right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.program import is_stochastic, nodes

PARTICLES = "_particles"  # name of the plate over particles, left of the image plate


def vectorise(program: Callable, num_particles: int) -> Callable:
    """Run ``program`` for K particles at once: every site gains a leading dimension K. K = 1 leaves it alone."""
    if num_particles == 1:
        return program
    return pyro.plate(PARTICLES, num_particles, dim=-2)(program)


def sample_sites(trace: Trace, *, observed: bool) -> dict[str, dict[str, Any]]:
    """The stochastic sites of a trace in order of sampling, without the plates' own."""
    return {
        name: node for name, node in nodes(trace).items() if is_stochastic(node) and node["is_observed"] == observed
    }


class Clamp(Messenger):
    """Give the named sites these values; the sites keep their distributions."""

    def __init__(self, values: Mapping[str, Tensor]):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


@dataclass(frozen=True)
class PairTrace:
    """One run of guide and model on the same values."""

    model: Trace
    guide: Trace
    num_particles: int

    @property
    def latents(self) -> dict[str, dict[str, Any]]:
        """The model's latent sites."""
        return sample_sites(self.model, observed=False)

    @property
    def observed(self) -> dict[str, dict[str, Any]]:
        """The model's observed sites."""
        return sample_sites(self.model, observed=True)

    @property
    def multiplier(self) -> float:
        """Full size of the image plate over its subsample; belongs outside the log-mean-exp."""
        (frame,) = image_frames(next(iter(self.observed.values())))
        return (frame.full_size or frame.size) / frame.size


def trace_pair(
    model: Callable,
    guide: Callable,
    args: tuple,
    kwargs: Mapping[str, Any],
    num_particles: int = 1,
) -> PairTrace:
    """Run the guide, then the model on the guide's values, for K particles at once."""
    guide_trace = poutine.trace(vectorise(guide, num_particles)).get_trace(*args, **kwargs)
    return replay_model(model, guide_trace, args, kwargs, num_particles)


def replay_model(
    model: Callable, guide_trace: Trace, args: tuple, kwargs: Mapping[str, Any], num_particles: int
) -> PairTrace:
    """Run the model on the values of a guide's trace."""
    replayed = poutine.replay(vectorise(model, num_particles), trace=guide_trace)
    return PairTrace(poutine.trace(replayed).get_trace(*args, **kwargs), guide_trace, num_particles)


def log_prob(node: Mapping[str, Any], value: Tensor | None = None) -> Tensor:
    """Log density of a site per particle and image (``(K, image)`` or ``(image,)``), masked, without any scale."""
    density = node["fn"].log_prob(node["value"] if value is None else value)
    return scale_and_mask(density, mask=node["mask"])


def check_layout(pair: PairTrace) -> None:
    """What every per-image bound needs: all sites inside the one image plate, no scale on the observation.

    A ``poutine.scale`` that reaches a latent site in both programs is allowed, and read as a beta.

    :raises HVAEError: naming the site, what is wrong with it and how to mend it.
    """
    guide_latents = sample_sites(pair.guide, observed=False)
    model_latents = pair.latents
    if missing := sorted(set(model_latents) ^ set(guide_latents)):
        raise HVAEError(
            f"model and guide must have the same latent sites; only one has {', '.join(missing)} "
            f"(model: {sorted(model_latents)}, guide: {sorted(guide_latents)})"
        )
    if not pair.observed:
        raise HVAEError("the model observes nothing: give it a site with obs=...")
    plate = None
    for where, sites in (("model", model_latents | pair.observed), ("guide", guide_latents)):
        for name, node in sites.items():
            frame = _image_frame(where, name, node)
            if plate is None:
                plate = frame
            elif (frame.name, frame.size) != (plate.name, plate.size):
                raise HVAEError(
                    f"site {name} of the {where} is in plate {frame.name!r} of {frame.size} images, an earlier site in "
                    f"{plate.name!r} of {plate.size}; put all sites of both into one image plate"
                )
            _check_shape(where, name, node, frame.size, pair.num_particles)
    assert plate is not None
    multiplier = pair.multiplier
    for name, node in pair.observed.items():
        if not _equal(node["scale"], multiplier):
            raise HVAEError(
                f"a poutine.scale reaches the observed site {name} (scale {_show(node['scale'])}, its plate accounts for "
                f"{multiplier:g}): inside an importance weight a scaled likelihood gives values above log p(x). Take the "
                "scale off; weight KL terms with beta=..., and whole images by the subsample size of their plate"
            )
    for name, node in model_latents.items():
        ours, theirs = node["scale"] / multiplier, guide_latents[name]["scale"] / multiplier
        if not _equal(ours, theirs):
            raise HVAEError(
                f"site {name} has scale {_show(ours)} in the model and {_show(theirs)} in the guide; log p - log q needs "
                "one factor for both: use the same poutine.scale around both, or beta=..."
            )


def check_reparametrised(pair: PairTrace) -> None:
    """Refuse a bound whose gradient would lack a part: that of a draw which does not pass gradients on to its distribution.

    Nothing to refuse without gradients, or where no gradient is asked of the distribution (a guide that is not trained).

    :raises HVAEError: naming the site and the mend.
    """
    if not torch.is_grad_enabled():
        return
    for name, node in sample_sites(pair.guide, observed=False).items():
        if not node["fn"].has_rsample and node["fn"].log_prob(node["value"]).requires_grad:
            raise HVAEError(
                f"site {name} of the guide is a {family_name(node['fn'])}, whose draws cannot be reparametrised: the gradient "
                "of this bound would lack their part. Use a continuous family with rsample (Normal, Laplace, a "
                "RelaxedOneHotCategorical), sum the site out of both programs, or train with pyro.infer.Trace_ELBO(), which "
                "differentiates draws by their score"
            )


def check_support(pair: PairTrace) -> None:
    """Refuse values outside the support of their site in the model: a density there is a number without a meaning.

    :raises HVAEError: naming the site, its support and the range of the values.
    """
    for name, node in (pair.observed | pair.latents).items():
        if not in_support(node["fn"], node["value"], node["mask"]):
            observed, v = node["is_observed"], node["value"]
            raise HVAEError(
                f"{'the images are' if observed else f'the guide draws values of {name}'} outside the support of site {name} "
                f"of the model, a {family_name(node['fn'])} ({node['fn'].support}): values from {float(v.min()):.3g} "
                f"to {float(v.max()):.3g}. "
                + ("Whitened patches are real numbers: give the model a Normal image, or give patches of that support"
                   if observed else "Give the guide a family of the same support")
            )  # fmt: skip


def check_all_images(pair: PairTrace, x: Tensor) -> None:
    """Refuse images, beside those of the pair, outside a support that is one for all images.

    :raises HVAEError: as :func:`check_support`.
    """
    for name, node in pair.observed.items():
        if not (node["mask"] is None or node["mask"] is True) or node["value"].shape[1:] != x.shape[1:]:
            continue
        with suppress(RuntimeError):  # a support that depends on the image does not broadcast
            if not in_support(node["fn"], x):
                bad = x if x.dim() < 2 else x[~node["fn"].support.check(x)]
                raise HVAEError(
                    f"{len(bad)} of {len(x)} images are outside the support of site {name} of the model, a "
                    f"{family_name(node['fn'])} ({node['fn'].support}): values from {float(bad.min()):.3g} to "
                    f"{float(bad.max()):.3g}. Leave them out, or give the model a likelihood of their support"
                )


def in_support(fn: Any, value: Tensor, mask: Any = None) -> bool:
    """Whether all (unmasked) values lie in a distribution's support; True where it does not say what that is."""
    try:
        inside = fn.support.check(value)
    except (NotImplementedError, AttributeError):
        return True
    if mask is False:
        return True
    return bool((inside | ~mask if isinstance(mask, Tensor) else inside).all())


def family_name(fn: Any) -> str:
    """Name of a distribution without what wraps it."""
    while hasattr(fn, "base_dist") and type(fn).__name__ in (
        "Independent",
        "ExpandedDistribution",
        "MaskedDistribution",
    ):
        fn = fn.base_dist
    return type(fn).__name__


def _equal(a: float | Tensor, b: float | Tensor) -> bool:
    ours, theirs = (torch.as_tensor(scale).detach().double().cpu() for scale in (a, b))  # numbers, or one an image
    return torch.allclose(ours, theirs, rtol=1e-6, atol=0)


def _show(scale: float | Tensor) -> str:
    several = isinstance(scale, Tensor) and scale.numel() > 1
    return f"of shape {tuple(torch.as_tensor(scale).shape)}" if several else f"{float(scale):g}"


def image_frames(node: Mapping[str, Any]) -> list[Any]:
    """The plates a site is in, without the one over particles."""
    return [f for f in node["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]


def _image_frame(where: str, name: str, node: Mapping[str, Any]) -> Any:
    frames = image_frames(node)
    event = tuple(node["fn"].event_shape)
    if not frames:
        raise HVAEError(
            f"site {name} of the {where} is outside the image plate (event shape {event}): its density cannot be split by "
            "image and the weights would be those of the whole batch. Sample it inside `with pyro.plate('image', len(x), "
            f"dim=-1)`, with {'.to_event(1) instead of the images in the event' if len(event) > 1 else 'one value an image'}"
        )
    if len(frames) > 1 or frames[0].dim != -1:
        plates = ", ".join(f"{f.name!r} (dim {f.dim})" for f in frames)
        raise HVAEError(
            f"site {name} of the {where} is inside {plates}: one plate over images at dim=-1 is needed. Make other "
            "dimensions part of the event with .to_event()"
        )
    return frames[0]


def _check_shape(where: str, name: str, node: Mapping[str, Any], images: int, num_particles: int) -> None:
    expected = (images,) if num_particles == 1 else (num_particles, images)
    shape = tuple(node["fn"].batch_shape)
    if shape != expected:
        raise HVAEError(
            f"site {name} of the {where} has batch shape {shape}, expected {expected} = "
            f"{'(image,)' if num_particles == 1 else '(particle, image)'}: images must be the rightmost batch dimension, "
            "features the event (.to_event(1)), and the program must work with a leading particle dimension"
        )


def log_weights(model: Callable, guide: Callable, x: Tensor, num_particles: int) -> Tensor:
    """Un-annealed log importance weights log p(x, z) - log q(z | x), ``(num_particles, image)``, each particle fresh."""
    pair = trace_pair(model, guide, (x,), {}, num_particles)
    check_layout(pair)
    check_support(pair)
    guide_sites = sample_sites(pair.guide, observed=False)
    terms = [log_prob(node) for node in (pair.latents | pair.observed).values()]
    terms += [-log_prob(node) for node in guide_sites.values()]
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0).reshape(num_particles, -1)
