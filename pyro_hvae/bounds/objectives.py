"""Bounds on log p(x), one number an image: ELBO, importance-weighted, Rényi.

All are one formula. With log w = log p(x|z) + Σ_l β_l (log p(z_l|…) - log q(z_l|…)) of K particles,

    L_α = 1/(1-α) log (1/K) Σ_i w_i^(1-α):    α = 1 the ELBO, α = 0 the importance-weighted bound,

taken image by image. β is 1 for a bound on log p(x); Csikor et al. 2022 and Vas 2024 anneal β2.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.infer import ELBO as PyroELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_hvae.arguments import as_annotated, whole_number
from pyro_hvae.bounds import gradients
from pyro_hvae.bounds.names import GRADIENTS
from pyro_hvae.bounds.structure import Structure
from pyro_hvae.bounds.traces import PairTrace, check_layout, check_reparametrised, log_prob, sample_sites, trace_pair
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs.program import nodes

Beta = float | Tensor


@dataclass(frozen=True)
class Evaluation:
    """One stochastic evaluation of a bound; everything per image."""

    bound: Tensor
    """The (annealed) bound, ``(image,)``, nats; differentiable."""
    terms: dict[str, Tensor]
    """Un-annealed terms, ``(image,)``, detached, averaged over particles: E_q[log p(x|z)] under the observed sites' names,
    E_q[log p(z_l) - log q(z_l)] (minus a KL) under the latents'. They sum to the ELBO whatever the bound."""
    betas: Mapping[str, Beta]
    """The factor with which each latent site's term entered the bound."""
    multiplier: float
    """Full size of the image plate over the batch."""

    @property
    def annealed(self) -> dict[str, Tensor]:
        """The terms times their betas."""
        return {name: term * self.betas.get(name, 1.0) for name, term in self.terms.items()}

    @property
    def elbo(self) -> Tensor:
        """The un-annealed ELBO, ``(image,)``, detached."""
        return torch.stack(list(self.terms.values())).sum(0)

    def to_dataset(self) -> xr.Dataset:
        """Bound, ELBO, terms, and terms times beta (``*_annealed``) as labelled arrays (image), in nats."""
        annealed = {f"{name}_annealed": term for name, term in self.annealed.items()}
        arrays = {"bound": self.bound.detach(), "elbo": self.elbo} | self.terms | annealed
        return xr.Dataset({k: ("image", v.cpu().numpy(), {"units": "nats"}) for k, v in arrays.items()})


class Bound(PyroELBO, abc.ABC):
    """Abstract base of the objectives: a :class:`pyro.infer.ELBO`, for :class:`pyro.infer.SVI` and as a loss module.

    :param num_particles: particles K an image; the programs must work with a leading particle dimension.
    :param beta: factor of each latent site's log p - log q: one for all sites, or by site name (1 where absent).
    :param gradient: estimator, one of :data:`~pyro_hvae.bounds.names.GRADIENTS`.
    """

    def __init__(self, num_particles: int = 1, *, beta: Beta | Mapping[str, Beta] = 1.0, gradient: str = "standard"):
        num_particles = whole_number("num_particles", num_particles, 1)
        if gradient not in GRADIENTS:
            raise unknown("gradient", gradient, GRADIENTS)
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        self.gradient = gradient
        given = beta if isinstance(beta, Mapping) else {"": beta}
        self.beta = {name: as_annotated("beta", value, Beta) for name, value in given.items()}
        for name, value in self.beta.items():
            if not isinstance(value, Tensor) and not (math.isfinite(value) and value >= 0):
                raise HVAEError(
                    f"beta must be finite and not negative, got {value!r}" + (f" for {name}" if name else "")
                )
        self._check_gradient()
        self._planned: tuple[Callable, Callable, dict[str, str]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_planned": None}  # a copied or pickled objective does not take the pair along

    @property
    @abc.abstractmethod
    def alpha(self) -> float:
        """Order of the Rényi bound that this is."""

    def _check_gradient(self) -> None:
        averaged = self.alpha == 1 or self.num_particles == 1
        if self._path == "stl" and not averaged:
            raise HVAEError(
                f"gradient={self.gradient!r} is biased inside an importance-weighted or Rényi bound; use "
                f"{self.gradient.replace('stl', 'dreg')!r}"
            )
        if self._closed and not averaged and self.alpha < 0:
            raise HVAEError(
                f"gradient={self.gradient!r} puts a lower bound of log p(x|z2) into the weights, and alpha = "
                f"{self.alpha:g} makes an upper bound on log p(x) of them: the result would be neither. Use another gradient, "
                "or alpha >= 0"
            )
        if self._path == "dreg" and not math.isfinite(self.alpha):
            raise HVAEError(f"gradient={self.gradient!r} needs a finite alpha; leave dreg out")

    @property
    def _closed(self) -> bool:
        """Whether z1 is taken in closed form."""
        return self.gradient.startswith("rao_blackwell")

    @property
    def _path(self) -> str | None:
        """``"stl"`` or ``"dreg"`` where sampled sites have path derivatives alone."""
        return next((name for name in ("stl", "dreg") if self.gradient.endswith(name)), None)

    def beta_of(self, site: str) -> Beta:
        """The factor of a site's log p - log q."""
        return self.beta.get(site, self.beta.get("", 1.0))

    # -- evaluation

    def evaluate(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Evaluation:
        """Draw K particles for every image and evaluate the bound and its terms.

        The pair is checked, and its structure found, at the first call with it. Later calls do not synchronise with the
        host where Pyro's own validation is off (``pyro.enable_validation(False)``).

        :raises HVAEError: for pairs on which a per-image bound cannot be computed, naming the site and the mend.
        """
        forms = self._forms(model, guide, args, kwargs)
        paths: dict[str, Tensor] = {}
        if self._path:
            draw = gradients.mean_path_pair if self._closed else gradients.path_pair
            pair, paths = draw(model, guide, args, kwargs, self.num_particles)
        elif self._closed:
            pair = gradients.mean_pair(model, guide, args, kwargs, self.num_particles)
        else:
            pair = trace_pair(model, guide, args, kwargs, self.num_particles)
        check_reparametrised(pair)  # again: the first evaluation may have been one without gradients
        terms = self._terms(model, pair, forms)
        # A poutine.scale around a latent site is one more beta; read at every call, since it is how Pyro programs anneal.
        betas = {name: self.beta_of(name) * (node["scale"] / pair.multiplier) for name, node in pair.latents.items()}
        log_w = torch.stack([terms[name] * betas.get(name, 1.0) for name in terms]).sum(0)
        if self.num_particles == 1:
            return Evaluation(log_w, {k: v.detach() for k, v in terms.items()}, betas, pair.multiplier)
        if paths and self.alpha != 1:
            weights = torch.softmax((1 - self.alpha) * log_w.detach(), 0)
            for name, value in paths.items():
                if not value.requires_grad:  # under no_grad, or where the parameters of this site are frozen
                    continue
                scale = gradients.path_scale(weights, betas[name], self.alpha)
                value.register_hook(_multiply(scale.reshape(scale.shape + (1,) * (value.dim() - scale.dim()))))
        means = {name: term.detach().mean(0) for name, term in terms.items()}
        return Evaluation(power_mean(log_w, self.alpha), means, betas, pair.multiplier)

    def _terms(self, model: Any, pair: PairTrace, forms: Mapping[str, str]) -> dict[str, Tensor]:
        """log p of the observed sites and log p - log q of the latent ones, ``(K, image)`` or ``(image,)``."""
        terms = {}
        for name, node in pair.observed.items():
            terms[name] = gradients.expected_log_likelihood(pair, node, model) if self._closed else log_prob(node)
        guide_sites = sample_sites(pair.guide, observed=False)
        for name, p in pair.latents.items():
            q, form = guide_sites[name], forms[name]
            if form == "kl_to_prior":
                terms[name] = _masked(-sum_rightmost(q["fn"].base_dist.kl_to_prior(), q["fn"].event_dim), p)
            elif form == "kl":
                terms[name] = _masked(-kl_divergence(q["fn"], p["fn"]), p)
            elif form == "entropy":
                terms[name] = log_prob(p) + _masked(q["fn"].entropy(), p)
            else:
                terms[name] = log_prob(p) - log_prob(q)
        return terms

    def _forms(self, model: Callable, guide: Callable, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, str]:
        """Form of each latent site's term, as :meth:`~pyro_hvae.bounds.structure.Structure.analytic_form` names them."""
        if self._planned is not None and self._planned[:2] == (model, guide):
            return self._planned[2]
        with torch.random.fork_rng(devices=_devices(args)):
            pair = trace_pair(model, guide, args, kwargs)
            check_layout(pair)
            check_reparametrised(pair)
            if self.num_particles > 1:
                check_layout(trace_pair(model, guide, args, kwargs, self.num_particles))
            for name in set(self.beta) - {""} - set(pair.latents):
                raise unknown("site in beta", name, pair.latents)
            forms = dict.fromkeys(pair.latents, "sample")
            if self._path:
                gradients.check_stopped(guide, args, kwargs)
            analytic = self.alpha == 1 and not self._path
            if analytic or self._closed:
                structure = Structure.of(model, guide, args, kwargs, pair)
            if analytic:
                forms = {name: structure.analytic_form(name, pair) for name in pair.latents}
            if self._closed:
                gradients.check_linear(model, pair, args, kwargs, structure)
                forms[gradients.LINEAR_SITE] = "kl"
            if model in getattr(guide, "shared", ()):
                forms |= {
                    name: "kl_to_prior" for name, form in forms.items() if form == "kl" and _own_prior(pair, name)
                }
        self._planned = (model, guide, forms)
        return forms

    # -- what pyro.infer.ELBO asks for; losses are sums over images, as everywhere in Pyro

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the images (times full size over subsample size)."""
        evaluation = self.evaluate(model, guide, *args, **kwargs)
        return -evaluation.multiplier * evaluation.bound.sum()

    @torch.no_grad()
    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Value of :meth:`differentiable_loss`."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Value of :meth:`differentiable_loss`; gradients are added to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> tuple[Trace, Trace]:
        pair = trace_pair(model, guide, args, kwargs, self.num_particles)
        return pair.model, pair.guide

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_particles}, gradient={self.gradient!r})"


class ELBO(Bound):
    """The evidence lower bound, KL terms analytic wherever the structure of the pair allows it.

    For the guides of Csikor et al. 2022 this is their F: top-down, both KLs analytic; bottom-up, the entropy of q(z1|x) and the
    KL of z2 analytic, log p(z1|z2) sampled. With K particles their average.
    """

    @property
    def alpha(self) -> float:
        return 1.0


class ImportanceWeightedELBO(Bound):
    """log (1/K) Σ w_i per image (Burda, Grosse, Salakhutdinov 2016; TD-IWAE of Vas 2024)."""

    def __init__(self, num_particles: int, *, beta: Beta | Mapping[str, Beta] = 1.0, gradient: str = "standard"):
        super().__init__(num_particles, beta=beta, gradient=gradient)

    @property
    def alpha(self) -> float:
        return 0.0


class RenyiELBO(Bound):
    """The Rényi bound of any order (Li and Turner 2016): alpha = 0 importance-weighted, 1 the ELBO, -inf and inf the largest
    and the smallest weight. An upper bound on log p(x) in the limit of many particles for alpha < 0."""

    def __init__(
        self, alpha: float, num_particles: int, *, beta: Beta | Mapping[str, Beta] = 1.0, gradient: str = "standard"
    ):
        self._alpha = float(as_annotated("alpha", alpha, float))
        if math.isnan(self._alpha):
            raise HVAEError("alpha must be a number or plus or minus infinity, got nan")
        super().__init__(num_particles, beta=beta, gradient=gradient)

    @property
    def alpha(self) -> float:
        return self._alpha

    def __repr__(self) -> str:
        return f"RenyiELBO({self._alpha:g}, {self.num_particles}, gradient={self.gradient!r})"


def power_mean(log_w: Tensor, alpha: float) -> Tensor:
    """1/(1-α) log (1/K) Σ_i w_i^(1-α) over the first dimension; continuous in alpha."""
    e = 1 - alpha
    if e == 0:
        return log_w.mean(0)
    largest = log_w.amax(0) if e > 0 else log_w.amin(0)  # the largest power: exponents below are never positive
    if math.isinf(e):
        return largest
    largest = largest.detach()
    # expm1 and log1p: for e near 0 log-sum-exp would lose the differences to rounding
    return largest + torch.log1p(torch.expm1(e * (log_w - largest)).mean(0)) / e


def _own_prior(pair: PairTrace, site: str) -> bool:
    """Whether q of a site is a product with the very p of the model, so that its KL to it has a simpler form."""
    q, p = (nodes(trace)[site]["fn"] for trace in (pair.guide, pair.model))
    q, p = getattr(q, "base_dist", q), getattr(p, "base_dist", p)
    return hasattr(q, "kl_to_prior") and torch.equal(q.loc, p.loc) and torch.equal(q.scale, p.scale)


def _multiply(scale: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * scale


def _masked(term: Tensor, node: Mapping[str, Any]) -> Tensor:
    return scale_and_mask(term, mask=node["mask"])


def _devices(args: tuple) -> list[torch.device]:
    return list({a.device for a in args if isinstance(a, Tensor) and a.is_cuda})
