"""Brute force for pairs with one-dimensional layers: the guide's randomness on a grid instead of drawn.

Three things, kept apart so that they can disagree:

- :func:`paper_bound`: F of Csikor et al. 2022, section on objectives, from the weights in numpy and scipy alone;
- :func:`expected`: the exact expectation of what one of our objectives returns, by running it on grid nodes;
- :func:`exact_bound`: the expectation of a Rényi bound of any order and number of particles, in torch, so that its gradient
  is known as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyro
import torch
import torch.nn.functional as F
from pyro.poutine.messenger import Messenger
from scipy import stats
from torch import Tensor, nn

from pyro_hvae.programs import (
    GUIDES,
    HVAE,
    BottomUpGuide,
    GenerativeModel,
    LinearModel,
    MarkovModel,
    MeanFieldGuide,
    SkipModel,
)
from pyro_hvae.programs.ladder import LadderGuide
from pyro_hvae.programs.sites import Head

# ---- pairs to try ---------------------------------------------------------------------------------------------------


def tiny_pair(
    model: str,
    guide: str,
    families: Sequence[str] = ("laplace", "normal"),
    *,
    pixels: int = 2,
    hidden: int = 2,
    dims: Sequence[int] | None = None,
    seed: int = 0,
    noise: float = 0.6,
    ladder: dict[str, str] | None = None,
) -> HVAE:
    """A pair of our classes in double precision, layers of one dimension, random weights of moderate size."""
    dims = (1,) * (1 if model == "linear" else len(families)) if dims is None else tuple(dims)
    families, layers = tuple(families)[: len(dims)], len(dims)
    units = ((hidden,),) * layers
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        above: Any = units[1:]
        built = {
            "linear": partial(LinearModel, pixels, dims, families),
            "markov": partial(MarkovModel, pixels, dims, families, above),
            "skip": partial(SkipModel, pixels, dims, families, above, (hidden,)),
        }[model](noise=noise, learn_noise=True)
        if guide == "top_down":
            recognition = GUIDES[guide](pixels, dims, families, units, above, above)
        elif guide == "ladder":
            recognition = LadderGuide(built, hidden_x=units if layers > 1 else (), **(ladder or {}))
        else:
            recognition = GUIDES[guide](pixels, dims, families, units)
        vae = HVAE(built, recognition).double()
        with torch.no_grad():
            for name, parameter in vae.named_parameters():
                if not name.endswith("log_sigma"):
                    parameter.uniform_(-1.2, 1.2)
            for head in vae.modules():
                if isinstance(head, Head):  # exp(v) of a heavy-tailed layer above has moments only at a small slope
                    head.v_weight.mul_(0.1)
    return vae


def images_of(vae: HVAE, count: int = 3) -> Tensor:
    """Images with some structure, ``(count, pixels)``."""
    return torch.linspace(-1.3, 1.7, count * vae.pixels, dtype=torch.float64).reshape(count, vae.pixels).cos() * 1.5


# ---- grids ----------------------------------------------------------------------------------------------------------


def nodes(family: str, points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Standardised noise and weights (summing to one): E f(e) = Σ w f(e).

    Gauss-Legendre panels that end where the Laplace density has its kink, and are narrow enough that a kink of the
    integrand elsewhere costs O(width²).
    """
    if family == "normal":
        edges = np.linspace(-8, 8, points // 4 + 1)
    else:
        inner = np.linspace(0, 6, points // 12 + 1)
        outer = 6 + 30 * np.linspace(0, 1, max(points // 24, 8) + 1)[1:] ** 1.5
        half = np.concatenate([inner, outer])
        edges = np.concatenate([-half[:0:-1], half])
    t, w = np.polynomial.legendre.leggauss(4)
    middle, half_width = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    e = (middle[:, None] + half_width[:, None] * t).ravel()
    weight = (half_width[:, None] * w).ravel() * getattr(stats, "norm" if family == "normal" else "laplace").pdf(e)
    return e, weight / weight.sum()


def product_grid(families: Sequence[str], points: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Noise ``(node, layer)`` and weights ``(node,)`` over all layers."""
    axes = [nodes(f, n) for f, n in zip(families, points, strict=True)]
    e = np.stack(np.meshgrid(*(a for a, _ in axes), indexing="ij"), -1).reshape(-1, len(axes))
    w = np.ones(1)
    for _, weight in axes:
        w = np.multiply.outer(w, weight).ravel()
    return e, w


def default_points(families: Sequence[str]) -> list[int]:
    """Many for z1, whose integrand has kinks; few for a Normal layer above."""
    many = {1: 4000, 2: 1000, 3: 160}[len(families)]
    few = {1: 4000, 2: 80, 3: 48}[len(families)]
    return [many] + [few if f == "normal" else 480 for f in families[1:]]


# ---- the paper's F, in numpy ----------------------------------------------------------------------------------------


def _np(parameter: Tensor) -> np.ndarray:
    return parameter.detach().numpy()


def _np_mlp(layers: Sequence[nn.Linear], x: np.ndarray) -> np.ndarray:
    for layer in layers:
        x = np.logaddexp(0, x @ _np(layer.weight).T + _np(layer.bias))
    return x


def _np_head(head: nn.Linear, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    out = features @ _np(head.weight).T + _np(head.bias)
    dim = out.shape[-1] // 2
    return out[..., :dim], np.exp(out[..., dim:] / 2)


def _np_conditional(network: nn.Sequential, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _np_head(network[1], _np_mlp(network[0].layers, x))


def _log_density(family: str, value: np.ndarray, loc: Any, scale: Any) -> np.ndarray:
    return getattr(stats, {"normal": "norm", "laplace": "laplace"}[family]).logpdf(value, loc, scale).sum(-1)


def _np_guide(guide: nn.Module, x: np.ndarray, e: np.ndarray) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Values z_l of each layer at the noise ``e (node, layer)``, and log q(z_l | …), for one image."""
    L = guide.layers
    z, log_q = {}, {}
    x = np.broadcast_to(x, (len(e), len(x)))

    def draw(l: int, loc: np.ndarray, scale: np.ndarray) -> None:
        z[l] = loc + scale * e[:, l - 1, None]
        log_q[l] = _log_density(guide.families[l - 1], z[l], loc, scale)

    if isinstance(guide, BottomUpGuide):
        for l in range(1, L + 1):
            draw(l, *_np_conditional(guide.conditionals[l - 1], x if l == 1 else z[l - 1]))
    elif isinstance(guide, MeanFieldGuide):
        for l in range(1, L + 1):
            draw(l, *_np_conditional(guide.conditionals[l - 1], x))
    else:
        L_x = [x]
        for network in guide.bottom_up:
            L_x.append(_np_mlp(network.layers, L_x[-1]))
        draw(L, *_np_head(guide.heads[-1], L_x[-1]))
        for l in range(L - 1, 0, -1):
            L_z = _np_mlp(guide.top_down[l - 1].layers, z[l + 1])
            joint = guide.joint[l - 1]
            features = _np_mlp([joint.first, *joint.rest.layers], np.concatenate([L_x[l], L_z], -1))
            draw(l, *_np_head(guide.heads[l - 1], features))
    return z, log_q


def _np_model(model: GenerativeModel, z: dict[int, np.ndarray], x: np.ndarray) -> dict[Any, np.ndarray]:
    """log p of each layer and of the image (key ``"x"``)."""
    L = model.layers
    log_p: dict[Any, np.ndarray] = {L: _log_density(model.families[-1], z[L], 0.0, 1.0)}
    for l in range(1, L):
        log_p[l] = _log_density(model.families[l - 1], z[l], *_np_conditional(model.conditionals[l - 1], z[l + 1]))
    mean = z[1] @ _np(model.to_image.weight).T + _np(model.to_image.bias)
    if isinstance(model, SkipModel):
        h = _np_mlp(model.skip.layers, np.concatenate([z[l] for l in range(2, L + 1)], -1))
        mean = mean + h @ _np(model.skip_to_image.weight).T
    log_p["x"] = _log_density("normal", x, mean, float(model.sigma.detach()))
    return log_p


def paper_bound(vae: HVAE, x: Tensor, betas: Sequence[float], points: Sequence[int] | None = None) -> np.ndarray:
    """F per image.

    top-down and mean-field: E log p(x|z) - Σ_l β_l E KL[q(z_l|…) ‖ p(z_l|…)];
    bottom-up: E[log p(x|z) + β_1 log p(z1|z2)] + β_1 H[q(z1|x)] - β_2 E KL[q(z2|z1) ‖ p(z2)], and so on upwards.
    Every expectation, entropy and divergence is a sum over the grid.
    """
    model, guide = vae.model, vae.guide
    e, w = product_grid(guide.families, points or default_points(guide.families))
    results = []
    for image in x.numpy():
        z, log_q = _np_guide(guide, image, e)
        log_p = _np_model(model, z, image)
        value = w @ log_p["x"]
        for l, beta in enumerate(betas, start=1):
            if isinstance(guide, BottomUpGuide) and l < guide.layers:
                entropy = -w @ log_q[l]
                value += beta * (w @ log_p[l]) + beta * entropy
            else:
                value -= beta * (w @ (log_q[l] - log_p[l]))
        results.append(value)
    return np.array(results)


def brute_force_iw(vae: HVAE, x: Tensor, particles: int, points: int) -> np.ndarray:
    """E log (1/K) Σ w_i for one layer and K = 1, 2, 3: a K-dimensional integral, per image."""
    e, w = nodes(vae.guide.families[0], points)
    results = []
    for image in x.numpy():
        z, log_q = _np_guide(vae.guide, image, e[:, None])
        log_p = _np_model(vae.model, z, image)
        log_w = log_p["x"] + log_p[1] - log_q[1]
        total, weight = log_w, w
        for _ in range(particles - 1):
            total = np.logaddexp.outer(total, log_w)
            weight = np.multiply.outer(weight, w)
        results.append((weight * (total - math.log(particles))).sum())
    return np.array(results)


# ---- expectation of our own estimators ------------------------------------------------------------------------------


class OnGrid(Messenger):
    """Latent sites of a guide take loc + scale · node instead of a draw.

    :param noise: per site, ``(..., image, dim)`` to broadcast against the site's value.
    """

    def __init__(self, noise: dict[str, Tensor]):
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["done"] or msg["is_observed"] or msg["name"] not in self.noise:
            return
        fn = msg["fn"]
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        noise = self.noise[msg["name"]]
        if noise.shape[:-1] == fn.loc.shape[:-1]:  # not the run with one particle that looks at the structure
            msg["value"], msg["done"] = fn.loc + fn.scale * noise, True


def expected(objective: Any, vae: HVAE, x: Tensor, points: Sequence[int] | None = None) -> Tensor:
    """Exact expectation of ``objective.evaluate(...)``: ``.bound`` per image.

    Each image is repeated along the image plate, one copy per node of a grid over the guide's noise (for K particles of a
    one-layer guide, a grid over all K).
    """
    return _expected(objective, vae, x, points, lambda evaluation: evaluation.bound)


def expected_terms(objective: Any, vae: HVAE, x: Tensor, points: Sequence[int] | None = None) -> dict[str, Tensor]:
    """As :func:`expected`, for each of the evaluation's terms."""
    names = (*vae.sites, "x")
    stacked = _expected(objective, vae, x, points, lambda ev: torch.stack([ev.terms[n] for n in names], -1))
    return dict(zip(names, stacked.unbind(-1), strict=True))


def _expected(
    objective: Any, vae: HVAE, x: Tensor, points: Sequence[int] | None, of: Callable[[Any], Tensor]
) -> Tensor:
    families, K = vae.guide.families, objective.num_particles
    if K == 1:
        grid, weight = product_grid(families, points or default_points(families))
        noise = {f"z{l + 1}": torch.as_tensor(grid[:, l, None]) for l in range(len(families))}
    else:
        assert len(families) == 1 and points is not None
        grid, weight = product_grid(families * K, points)
        noise = {"z1": torch.as_tensor(grid.T[..., None])}
    results = []
    for image in x:
        with OnGrid(noise), pyro.validation_enabled(False), torch.no_grad():
            values = of(objective.evaluate(vae.model, vae.guide, image.expand(len(weight), -1)))
        results.append(torch.tensordot(torch.as_tensor(weight), values, dims=([0], [0])))
    return torch.stack(results)


# ---- bounds of any order and number of particles, with gradients ---------------------------------------------------


def _mlp(layers: Sequence[nn.Linear], x: Tensor) -> Tensor:
    for layer in layers:
        x = F.softplus(x @ layer.weight.T + layer.bias)
    return x


def _head(head: nn.Linear, features: Tensor) -> tuple[Tensor, Tensor]:
    loc, v = (features @ head.weight.T + head.bias).chunk(2, -1)
    return loc, (v / 2).exp()


def _family(family: str, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    standard = (value - loc) / scale
    density = {
        "laplace": lambda: -standard.abs() - math.log(2),
        "normal": lambda: -0.5 * standard.square() - 0.5 * math.log(2 * math.pi),
    }[family]()
    return (density - scale.log()).sum(-1)


def _recognition(guide: nn.Module, l: int, x: Tensor, z: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Location and scale of q(z_l | …) for one image and values ``z[l] (..., 1)`` of the layers it is inferred from."""
    if isinstance(guide, LadderGuide):
        return _head(guide.top, _ladder_features(guide, x))
    if isinstance(guide, BottomUpGuide | MeanFieldGuide):
        trunk, head = guide.conditionals[l - 1]
        return _head(head, _mlp(trunk.layers, z[l - 1] if isinstance(guide, BottomUpGuide) and l > 1 else x))
    L_x = [x]
    for network in guide.bottom_up:
        L_x.append(_mlp(network.layers, L_x[-1]))
    if l == guide.layers:
        return _head(guide.heads[-1], L_x[-1])
    L_z = _mlp(guide.top_down[l - 1].layers, z[l + 1])
    joint = guide.joint[l - 1]
    features = torch.cat([L_x[l].expand(*L_z.shape[:-1], -1), L_z], -1)
    return _head(guide.heads[l - 1], _mlp([joint.first, *joint.rest.layers], features))


def _ladder_features(guide: LadderGuide, x: Tensor) -> Tensor:
    """What q(zL | x) of a ladder guide reads, from the definition in its docstring."""
    W, b = guide.evidence[0].location.weight, guide.evidence[0].location.bias
    m = (x - guide.model.to_image.bias) @ W.T + b
    h = torch.cat([torch.asinh(m), 0.5 * torch.log(1 + m**2)], -1) if guide.reads == "evidence" else x
    for network in guide.bottom_up:
        h = _mlp(network.layers, h)
    return h


def _ladder_evidence(vae: HVAE, x: Tensor, z: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """m_1 and s_1 of one image, given values of the layers above."""
    evidence, model = vae.guide.evidence[0], vae.model
    residual = x - model.to_image.bias
    if isinstance(model, SkipModel):
        h = _mlp(model.skip.layers, torch.cat([z[l] for l in range(2, model.layers + 1)], -1))
        residual = residual - h @ model.skip_to_image.weight.T
    return residual @ evidence.location.weight.T + evidence.location.bias, (evidence.log_variance / 2).exp()


def _prior(model: GenerativeModel, l: int, z: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Location and scale of p(z_l | z_l+1)."""
    if l == model.layers:
        return torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    trunk, head = model.conditionals[l - 1]
    return _head(head, _mlp(trunk.layers, z[l + 1]))


def log_densities(
    vae: HVAE, x: Tensor, z: dict[int, Tensor], betas: Sequence[float], weight1: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """log w = log p(x|z) + Σ β_l (log p_l - log q_l), log q(z | x), and log q(z1 | …) alone, for one image at the values
    ``z[l] (row, node, 1)``; a ladder guide's q(z1 | x, z2) is normalised by the sum over its nodes with ``weight1``."""
    model, guide = vae.model, vae.guide
    mean = z[1] @ model.to_image.weight.T + model.to_image.bias
    if isinstance(model, SkipModel):
        h = _mlp(model.skip.layers, torch.cat([z[l] for l in range(2, model.layers + 1)], -1))
        mean = mean + h @ model.skip_to_image.weight.T
    log_w = _family("normal", x, mean, model.log_sigma.exp().expand(len(x)))
    log_q = torch.zeros(())
    log_q1 = torch.zeros(())
    for l, beta in enumerate(betas, start=1):
        if isinstance(guide, LadderGuide) and l == 1:
            q = _family(guide.families[0], z[1], *_prior(model, 1, z))
            q = q + _family("normal", z[1], *_ladder_evidence(vae, x, z))
            q = q - torch.logsumexp(q + weight1.log(), -1, keepdim=True)
        else:
            q = _family(guide.families[l - 1], z[l], *_recognition(guide, l, x, z))
        log_q1 = q if l == 1 else log_q1
        log_w = log_w + beta * (_family(model.families[l - 1], z[l], *_prior(model, l, z)) - q)
        log_q = log_q + q
    return log_w, log_q, log_q1


def _panels(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on panels between ``edges (..., n)``."""
    t, w = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(5))
    middle, half = (edges[..., 1:] + edges[..., :-1]) / 2, edges.diff(dim=-1) / 2
    return (middle[..., None] + half[..., None] * t).flatten(-2), (half[..., None] * w).flatten(-2)


@torch.no_grad()
def _value_grid(vae: HVAE, x: Tensor, panels: Sequence[int]) -> tuple[dict[int, Tensor], Tensor, Tensor]:
    """Values of the layers ``(row, node, 1)`` and weights for integrals over z1 and the layer above.

    Panels of z1 end at the kinks of q(z1|…) and p(z1|z2): the derivative of a Laplace density to a parameter jumps there.
    """
    reach = {"normal": 8.5, "laplace": 34.0}
    guide, families = vae.guide, vae.guide.families
    half = torch.linspace(0, 1, panels[0] // 2 + 1, dtype=torch.float64)
    half = reach[families[0]] * (half if families[0] == "normal" else half**2.5)
    base = torch.cat([-half.flip(0)[:-1], half])
    z: dict[int, Tensor] = {}
    weight2 = torch.ones(1, dtype=torch.float64)
    if guide.layers == 2:
        assert families[1] == "normal"
        if isinstance(guide, BottomUpGuide):
            loc, scale = _recognition(guide, 1, x, {})
            z[1] = (loc + scale * torch.linspace(-1, 1, 201, dtype=torch.float64) * reach[families[0]])[:, None]
        loc, scale = _recognition(guide, 2, x, z)
        edges = torch.linspace(
            float((loc - 8.5 * scale).min()), float((loc + 8.5 * scale).max()), panels[1] + 1
        ).double()
        nodes2, weight2 = _panels(edges)
        z[2] = nodes2[:, None]
    rows = len(weight2)
    if isinstance(guide, LadderGuide):
        mu, (m, s) = _prior(vae.model, 1, z)[0].expand(rows, 1), _ladder_evidence(vae, x, z)
        m, s = m.expand(rows, 1), s.expand(rows, 1)
        low, high = torch.minimum(mu, m) - 8.5 * s, torch.maximum(mu, m) + 8.5 * s
        edges = low + (high - low) * torch.linspace(0, 1, panels[0] + 1, dtype=torch.float64)
    else:
        loc, scale = _recognition(guide, 1, x, z)
        edges = (loc + scale * base).expand(rows, -1)
    kink = torch.minimum(torch.maximum(_prior(vae.model, 1, z)[0].expand(rows, 1), edges[:, :1]), edges[:, -1:])
    nodes1, weight1 = _panels(torch.cat([edges, kink], -1).sort(-1).values)
    grid = {1: nodes1[..., None]}
    if guide.layers == 2:
        grid[2] = z[2].expand_as(nodes1)[..., None]
    return grid, weight1, weight2


def exact_bound(
    vae: HVAE,
    x: Tensor,
    *,
    alpha: float,
    particles: int,
    betas: Sequence[float],
    panels: Sequence[int] = (60, 24),
    closed: bool = False,
) -> Tensor:
    """E of the Rényi bound of K particles for one image ``x (pixel,)``; 0-d, differentiable in all parameters.

    With ``closed`` the particles are of z2 alone, and log w is averaged over q(z1 | x, z2) first.

    One or two layers of one dimension, z2 Normal. The K-fold integral is undone by log S = ∫ (e^-t - e^-tS) dt/t with
    S = Σ v_i, v = w^(1-α), of which only E[e^-tS] = φ(t)^K, φ(t) = E[e^-tv], is needed: one integral over one particle
    for each t. Integrals are over the values of z, so parameters act through the densities alone.
    """
    z, weight1, weight2 = _value_grid(vae, x, panels)
    log_w, log_q, log_q1 = log_densities(vae, x, z, betas, weight1)
    if closed:
        log_w = (weight1 * log_q1.exp() * log_w).sum(-1)
        mass = weight2 * (log_q - log_q1)[:, 0].exp()
    else:
        mass = weight1 * weight2[:, None] * log_q.exp()
    log_w, mass = log_w.flatten(), mass.flatten()
    keep = mass.detach() > 1e-14
    log_w, mass = log_w[keep], mass[keep]
    if alpha == 1:
        return mass @ log_w
    log_v = (1 - alpha) * log_w
    shift = (mass @ log_v).detach()
    log_v = log_v - shift
    weighty = log_v.detach()[mass > 1e-10]
    # In u = log t the trapezoid rule converges exponentially; beyond the ends both terms agree.
    u = torch.arange(
        min(0.0, float(-weighty.max())) - 25, max(0.0, float(-weighty.min())) + 6, 0.4, dtype=torch.float64
    )
    total = torch.zeros((), dtype=torch.float64)
    for part in u.split(64):
        phi = (mass * torch.exp(-(part[:, None] + log_v).clamp(max=40.0).exp())).sum(-1)
        total = total + 0.4 * ((-part.exp()).exp() - phi**particles).sum()
    return (total + shift - math.log(particles)) / (1 - alpha)


# ---- linear-Gaussian models -----------------------------------------------------------------------------------------


def linear_gaussian_posterior(model: GenerativeModel, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a model with Normal sites, no hidden units and constant scales: log p(x) per image, the posterior mean of
    (z1, …, zL) per image, and its covariance.

    log p(z, x) is a quadratic form, -½ Σ_k |R_k z - r_k|² / s_k² over the conditionals k, in which only the image's r
    depends on the image; its minimum and curvature give all three.
    """
    starts = np.cumsum([0, *model.dims])
    n = starts[-1]
    blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # R, r, s of each conditional

    def rows(of: np.ndarray, at: int) -> np.ndarray:
        R = np.zeros((of.shape[0], n))
        R[:, starts[at] : starts[at + 1]] = of
        return R

    top = model.layers - 1
    blocks.append((rows(np.eye(model.dims[top]), top), np.zeros(model.dims[top]), np.ones(model.dims[top])))
    for l, network in enumerate(model.conditionals):
        trunk, head = network
        W, b, d = _np(head.weight), _np(head.bias), model.dims[l]
        assert not len(trunk.layers) and not W[d:].any()
        blocks.append((rows(np.eye(d), l) - rows(W[:d], l + 1), b[:d], np.exp(b[d:] / 2)))
    A, c = _np(model.to_image.weight), _np(model.to_image.bias)
    image_rows = rows(A, 0)
    sigma = np.full(len(c), float(model.sigma.detach()))
    if isinstance(model, SkipModel):
        assert not len(model.skip.layers)
        image_rows[:, starts[1] :] += _np(model.skip_to_image.weight)
    blocks.append((image_rows, np.zeros(len(c)), sigma))

    precision = sum(R.T @ (R / s[:, None] ** 2) for R, _, s in blocks)
    covariance = np.linalg.inv(precision)
    log_evidence, means = [], []
    for image in x.numpy():
        targets = [r for _, r, _ in blocks[:-1]] + [image - c]
        mean = covariance @ sum(R.T @ (r / s**2) for (R, _, s), r in zip(blocks, targets, strict=True))
        log_joint = sum(stats.norm.logpdf(r, R @ mean, s).sum() for (R, _, s), r in zip(blocks, targets, strict=True))
        log_evidence.append(log_joint + 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1])
        means.append(mean)
    return np.array(log_evidence), np.array(means), covariance


def affine_model(layers: int, *, dim: int = 2, pixels: int = 3, seed: int = 0, noise: float = 0.8) -> GenerativeModel:
    """A linear-Gaussian hierarchy with random parameters."""
    families, dims = ("normal",) * layers, (dim,) * layers
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if layers == 1:
            model: GenerativeModel = LinearModel(pixels, dims, families, noise=noise)
        else:
            model = MarkovModel(pixels, dims, families, ((),) * (layers - 1), noise=noise)
        model.double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-1, 1)
            for _, head in model.conditionals:
                head.v_weight.zero_()
    return model


def near_exact_guide(model: GenerativeModel, inflation: float) -> MeanFieldGuide:
    """q(z1|x) q(z2|x) …: the exact posterior means of an affine model, its marginal sds times ``inflation``."""
    layers, pixels = model.layers, model.pixels
    guide = MeanFieldGuide(pixels, model.dims, model.families, ((),) * layers).double()
    basis = torch.cat([torch.zeros(1, pixels), torch.eye(pixels)]).double()
    _, means, covariance = linear_gaussian_posterior(model, basis)
    starts = np.cumsum([0, *model.dims])
    with torch.no_grad():
        for l, (_, head) in enumerate(guide.conditionals):
            here = slice(starts[l], starts[l + 1])
            head.bias.copy_(
                torch.as_tensor(np.concatenate([means[0, here], np.log(np.diag(covariance)[here] * inflation**2)]))
            )
            head.weight.zero_()
            head.location_weight[:] = torch.as_tensor((means[1:, here] - means[0, here]).T)
    return guide


# ---- evidence of anything small -------------------------------------------------------------------------------------


def latent_density_evidence(
    model: GenerativeModel, x: Tensor, half_width: float = 14.0, points: int = 2001
) -> np.ndarray:
    """log p(x) per image of a model with one or two latent dimensions in all, by the trapezoid rule over z."""
    dims = np.cumsum([0, *model.dims])
    axis = np.linspace(-half_width, half_width, points)
    grid = np.stack(np.meshgrid(*[axis] * dims[-1], indexing="ij"), -1).reshape(-1, dims[-1])
    z = {l: grid[:, a:b] for l, (a, b) in enumerate(pairwise(dims), start=1)}
    cell = (axis[1] - axis[0]) ** dims[-1]
    results = []
    for image in x.numpy():
        log_joint = sum(_np_model(model, z, image).values())
        top = log_joint.max()
        results.append(top + math.log(np.exp(log_joint - top).sum() * cell))
    return np.array(results)
