"""The log joint of any Pyro model as a function of one real vector per image, for samplers that move in such a space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro.distributions import Independent, TorchDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import AffineTransform, Transform

from pyro_hvae.bounds.traces import PARTICLES
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.program import is_stochastic, nodes


class Joint:
    """log p(z) and log p(x | z) of a model, in whitened coordinates u, for many chains and images at once.

    Every latent is a transform of its part of u that depends on the latents sampled before it: ``loc + scale * u`` where
    its distribution has a location and a scale (Normal, Laplace, …), else the bijection from the reals to its support.
    In u the prior of a hierarchy of Normals is a standard Normal, whatever the networks in between.

    Works for any model with continuous latents in one image plate. Scales (``poutine.scale``, subsampled plates) are
    refused, for then the model's density is not the one written in the program.

    :param model: Pyro program ``model(x)``.
    :param x: images ``(image, pixel)``.
    :param chains: leading dimension of u ``(chain, image, dim)``.
    """

    def __init__(self, model: Callable, x: Tensor, chains: int):
        self.x = x
        self._batch = (chains, len(x))
        self._program = pyro.plate(PARTICLES, chains, dim=-2)(model)
        self._layout: dict[str, torch.Size] = {}
        self.prior()

    @property
    def dim(self) -> int:
        """Dimension of u."""
        return sum(shape.numel() for shape in self._layout.values())

    def prior(self) -> Tensor:
        """Independent draws from p(u), ``(chain, image, dim)``."""
        return self._run(lambda site, fn, transform: transform.inv(fn.sample())).u

    def whiten(self, z: Mapping[str, Tensor]) -> Tensor:
        """u at latents ``{site: (image, *event)}``, the same for every chain, or ``(chain, image, *event)``."""
        return self._run(lambda site, fn, transform: transform.inv(z[site].expand(*self._batch, *fn.event_shape))).u

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(u) and log p(x | u), each ``(chain, image)``."""
        run = self._at(u)
        return run.log_prior, run.log_likelihood

    def latents(self, u: Tensor) -> dict[str, Tensor]:
        """The latents at u, ``{site: (chain, image, *event)}``."""
        return self._at(u).values

    def predicted(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of p(x | u), ``(chain, image, *event of x)``."""
        fn = self._at(u).image
        return fn.mean, fn.variance

    def _at(self, u: Tensor) -> _Whitened:
        sizes = [shape.numel() for shape in self._layout.values()]
        parts = dict(zip(self._layout, u.split(sizes, -1), strict=True))
        return self._run(lambda site, fn, transform: parts[site].reshape(*self._batch, *self._layout[site]))

    def _run(self, place: Callable[[str, TorchDistribution, Transform], Tensor]) -> _Whitened:
        handler = _Whitened(place, self._batch)
        with handler:
            self._program(self.x)
        if not handler.observed:
            raise HVAEError("the model observes nothing: called with images it must have a site with obs=x")
        if not handler.events:
            raise HVAEError("the model has no latent site, so its evidence needs no integral")
        self._layout = handler.events
        handler.u = torch.cat([value.reshape(*self._batch, -1) for value in handler.parts], -1)
        return handler


class _Whitened(Messenger):
    """Place every latent at the transform of what ``place`` returns; add up log p(u) and the log likelihood.

    It must be the outermost handler, so that the plates have broadcast the distributions before it sees them.
    """

    u: Tensor

    def __init__(self, place: Callable[[str, TorchDistribution, Transform], Tensor], batch: tuple[int, int]):
        super().__init__()
        self.place, self.batch = place, batch
        self.parts: list[Tensor] = []
        self.events: dict[str, torch.Size] = {}
        self.values: dict[str, Tensor] = {}
        self.image: Any = None
        self.observed = False
        self.log_prior: Any = 0.0
        self.log_likelihood: Any = 0.0

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not is_stochastic(msg):
            return
        fn, name = msg["fn"], msg["name"]
        self._check(name, fn, msg["scale"])
        if msg["is_observed"]:
            self.observed, self.image = True, fn
            density = fn.log_prob(msg["value"])
            self.log_likelihood = self.log_likelihood + scale_and_mask(density, mask=msg["mask"])
            return
        transform = whitening(name, fn)
        u = self.place(name, fn, transform)
        msg["value"], msg["done"] = transform(u), True
        self.parts.append(u)
        self.values[name] = msg["value"]
        self.events[name] = u.shape[len(self.batch) :]
        density = fn.log_prob(msg["value"]) + transform.log_abs_det_jacobian(u, msg["value"])
        self.log_prior = self.log_prior + scale_and_mask(density, mask=msg["mask"])

    def _check(self, name: str, fn: TorchDistribution, scale: Any) -> None:
        if tuple(fn.batch_shape) != self.batch:
            raise HVAEError(
                f"site {name} has batch shape {tuple(fn.batch_shape)}, expected {self.batch} = (chain, image): sample it "
                "inside `with pyro.plate('image', len(x), dim=-1)` with features in the event (.to_event(1)), and let the "
                "program work with a leading dimension"
            )
        if bool(torch.as_tensor(scale != 1.0).any()):
            raise HVAEError(
                f"site {name} has a scale of {float(torch.as_tensor(scale).max()):g} (poutine.scale or a subsampled "
                "plate): that changes the density whose evidence is asked for; call the model without it"
            )


def whitening(name: str, fn: TorchDistribution) -> Transform:
    """The transform from real u to the site's value.

    :raises HVAEError: for a discrete site.
    """
    base = fn
    while isinstance(base, Independent):
        base = base.base_dist
    if fn.support is not None and fn.support.is_discrete:
        raise HVAEError(
            f"site {name} is discrete ({type(base).__name__}); Hamiltonian moves need continuous latents: sum it out in "
            "the program, or use evidence_importance_sampling with a guide"
        )
    if {"loc", "scale"} <= set(base.arg_constraints) and base.support is constraints.real:
        return AffineTransform(base.loc, base.scale, event_dim=fn.event_dim)
    return biject_to(fn.support)


def simulate(model: Callable, num_images: int, like: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Latents ``{site: (image, *event)}`` and images ``(image, pixel)`` drawn from the model.

    :param like: an image ``(1, pixel)``: the model is called with copies of it, and its observed site is drawn anew.
    :raises HVAEError: if the observed site does not have the shape of the images.
    """
    with torch.no_grad():
        drawn = pyro.poutine.trace(pyro.poutine.uncondition(model)).get_trace(like.expand(num_images, -1))
    sites = {n: s for n, s in nodes(drawn).items() if is_stochastic(s)}
    observed: dict[str, Tensor] = {n: s["value"] for n, s in sites.items() if s["infer"].get("was_observed")}
    shapes = {name: tuple(value.shape) for name, value in observed.items()}
    if list(shapes.values()) != [(num_images, like.shape[-1])]:
        raise HVAEError(
            "data are simulated from a model whose one observed site is the image it is called with, of shape "
            f"{(num_images, like.shape[-1])} (image, pixel); this one observes {shapes or 'nothing'}"
        )
    (x,) = observed.values()
    return {name: site["value"] for name, site in sites.items() if name not in observed}, x
