"""Answers known exactly, by other means than the package's own: Gaussian algebra in numpy, and quadrature.

Conventions: arrays are float64 numpy; the latents of a model are concatenated as (z1, …, zL) along the last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from torch import Tensor, nn

from pyro_hvae.programs import GenerativeModel, LinearModel, MarkovModel, SkipModel

# ---- models whose answers are known ---------------------------------------------------------------------------------


def affine_model(
    dims: Sequence[int],
    pixels: int = 5,
    *,
    families: Sequence[str] | None = None,
    skip: bool = False,
    noise: float = 0.4,
    seed: int = 0,
) -> GenerativeModel:
    """A model in double precision whose conditionals are affine with constant scales; Normal throughout by default."""
    families = ("normal",) * len(dims) if families is None else tuple(families)
    hidden = ((),) * (len(dims) - 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: GenerativeModel
        if skip:
            model = SkipModel(pixels, dims, families, hidden, skip_hidden=(), noise=noise)
        elif len(dims) == 1:
            model = LinearModel(pixels, dims, families, noise=noise)
        else:
            model = MarkovModel(pixels, dims, families, hidden, noise=noise)
        model.double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
            model.to_image.weight.div_(dims[0] ** 0.5)
            for conditional in model.conditionals:
                head = conditional[1]
                head.weight[: head.dim].div_(head.in_features**0.5)
                head.weight[head.dim :].zero_()
                head.bias[head.dim :].mul_(0.5)
    return model.requires_grad_(False)


def softplus_model(
    dims: Sequence[int],
    pixels: int = 3,
    *,
    hidden: int = 4,
    skip: bool = False,
    noise: float = 0.4,
    seed: int = 0,
    spread: float = 0.7,
) -> GenerativeModel:
    """A model in double precision with Laplace z1 and softplus conditionals of location and scale.

    :param spread: standard deviation of all parameters.
    """
    networks = ((hidden,),) * (len(dims) - 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: GenerativeModel
        if skip:
            model = SkipModel(pixels, dims, hidden=networks, skip_hidden=(hidden,), noise=noise)
        elif len(dims) == 1:
            model = LinearModel(pixels, dims, noise=noise)
        else:
            model = MarkovModel(pixels, dims, hidden=networks, noise=noise)
        model.double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_().mul_(spread)
    return model.requires_grad_(False)


def simulate(model: nn.Module, images: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Ancestral samples of the latents ``{site: (image, dim)}`` and the images ``(image, pixel)``."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        trace = pyro.poutine.trace(model).get_trace(num_images=images)
    return {site: trace.nodes[site]["value"] for site in model.sites}, trace.nodes["x"]["value"]


# ---- linear-Gaussian models -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JointGaussian:
    """Mean and covariance of (z1, …, zL, x)."""

    mean: np.ndarray
    covariance: np.ndarray
    latents: int
    dims: tuple[int, ...]

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        """log p(x) per image."""
        n = self.latents
        return np.atleast_1d(stats.multivariate_normal(self.mean[n:], self.covariance[n:, n:]).logpdf(x))

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean ``(image, latent)`` and covariance ``(latent, latent)`` of p(z | x)."""
        n = self.latents
        gain = np.linalg.solve(self.covariance[n:, n:], self.covariance[n:, :n]).T
        return self.mean[:n] + (x - self.mean[n:]) @ gain.T, self.covariance[:n, :n] - gain @ self.covariance[n:, :n]


def joint_gaussian(model: GenerativeModel) -> JointGaussian:
    """The joint of an :func:`affine_model` with Normal sites, by propagating means and covariances down the hierarchy."""
    dims = model.dims
    starts = np.cumsum([0, *dims])
    where = [slice(a, b) for a, b in pairwise(starts)]
    n, pixels = starts[-1], model.pixels
    mean, covariance = np.zeros(n + pixels), np.zeros((n + pixels, n + pixels))
    covariance[where[-1], where[-1]] = np.eye(dims[-1])

    def child(target: slice, parents: np.ndarray, weight: np.ndarray, bias: np.ndarray, variance: np.ndarray) -> None:
        known = np.arange(target.stop, n) if target.stop <= n else np.arange(n)
        full = np.zeros((len(bias), len(known)))
        full[:, np.searchsorted(known, parents)] = weight
        mean[target] = full @ mean[known] + bias
        cross = full @ covariance[np.ix_(known, known)]
        covariance[target, known] = cross
        covariance[known, target] = cross.T
        covariance[target, target] = cross @ full.T + np.diag(variance)

    for l in range(model.layers - 2, -1, -1):
        head = model.conditionals[l][1]
        weight, bias = head.weight.numpy(), head.bias.numpy()
        d = dims[l]
        child(where[l], np.arange(starts[l + 1], starts[l + 2]), weight[:d], bias[:d], np.exp(bias[d:]))
    weight, parents = model.to_image.weight.numpy(), np.arange(dims[0])
    if isinstance(model, SkipModel):
        weight, parents = np.concatenate([weight, model.skip_to_image.weight.numpy()], 1), np.arange(n)
    sigma = float(model.sigma)
    child(slice(n, n + pixels), parents, weight, model.to_image.bias.numpy(), np.full(pixels, sigma**2))
    return JointGaussian(mean, covariance, n, tuple(dims))


class GaussianGuide(nn.Module):
    """The exact posterior of a linear-Gaussian model as a guide that samples z1 … zL jointly, or spoilt on purpose.

    :param inflate: factor on the posterior covariance; 1 is exact, more gives importance weights of finite variance.
    :param shift: added to every posterior mean, in posterior standard deviations.
    """

    def __init__(self, model: GenerativeModel, inflate: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.model, self.joint, self.inflate, self.shift = model, joint_gaussian(model), inflate, shift

    def forward(self, x: Tensor) -> None:
        mean, covariance = self.joint.posterior(x.numpy().astype(float))
        mean = torch.as_tensor(mean + self.shift * np.sqrt(np.diag(covariance))).to(x)
        covariance = torch.as_tensor(covariance * self.inflate).to(x)
        with pyro.plate("image", len(x), dim=-1):
            done: list[Tensor] = []
            stop = 0
            for l, d in enumerate(self.model.dims):  # chain rule of a Gaussian, z1 first
                here, before = slice(stop, stop + d), slice(0, stop)
                gain = torch.linalg.solve(covariance[before, before], covariance[before, here]).T
                loc = mean[:, here]
                if stop:
                    loc = loc + (torch.cat(done, -1) - mean[:, before]) @ gain.T
                conditional = covariance[here, here] - gain @ covariance[before, here]
                done.append(pyro.sample(f"z{l + 1}", dist.MultivariateNormal(loc, (conditional + conditional.T) / 2)))
                stop += d


# ---- quadrature -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GridPosterior:
    """Moments of p(z | x) for one image, by quadrature."""

    log_evidence: float
    mean: np.ndarray
    covariance: np.ndarray


def quadrature(
    log_joint: Callable[[Tensor], Tensor], dim: int, *, half_width: float = 12.0, points: int | None = None
) -> GridPosterior:
    """Integrate ``log_joint((..., dim)) -> (...)`` over a cube of 1 or 2 dimensions by the midpoint rule.

    Twice: over the whole cube, then over the box that holds all but 1e-10 of the mass. The kink of a Laplace density
    costs O(h^2), about 1e-5 here.
    """
    assert dim in (1, 2)
    points = points or (20_001 if dim == 1 else 801)
    low, high = np.full(dim, -half_width), np.full(dim, half_width)
    for _ in range(2):
        axes = [np.linspace(a, b, points + 1) for a, b in zip(low, high, strict=True)]
        axes = [(a[1:] + a[:-1]) / 2 for a in axes]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)
        value = log_joint(torch.as_tensor(grid)).detach().numpy().astype(float)
        shift = value.max()
        mass = np.exp(value - shift)
        log_evidence = shift + np.log(mass.sum()) + np.log((high - low) / points).sum()
        inside = grid[mass > 1e-12 * mass.max()]
        low, high = inside.min(0) - 2 * (high - low) / points, inside.max(0) + 2 * (high - low) / points
    weight = mass / mass.sum()
    mean = weight @ grid
    return GridPosterior(float(log_evidence), mean, (grid - mean).T @ ((grid - mean) * weight[:, None]))


def log_joint(model: GenerativeModel, x: Tensor) -> Callable[[Tensor], Tensor]:
    """log p(z, x) of one image ``x (pixel,)`` as a function of z = (z1, …, zL), from the densities written out."""

    def family(name: str, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        cls = {"laplace": torch.distributions.Laplace, "normal": torch.distributions.Normal}[name]
        return cls(loc, scale).log_prob(value).sum(-1)

    def density(z: Tensor) -> Tensor:
        parts = dict(enumerate(z.split(model.dims, -1), start=1))
        top = model.layers
        total = family(model.families[-1], parts[top], torch.zeros(1).to(z), torch.ones(1).to(z))
        for l in range(top - 1, 0, -1):
            trunk, head = model.conditionals[l - 1]
            out = nn.functional.linear(trunk(parts[l + 1]), head.weight, head.bias)
            loc, v = out.chunk(2, -1)
            total = total + family(model.families[l - 1], parts[l], loc, torch.exp(0.5 * v))
        mean = model.image_mean(parts)
        return total + torch.distributions.Normal(mean, model.sigma).log_prob(x).sum(-1)

    return density


def quadrature_posteriors(model: GenerativeModel, x: Tensor, **options: float) -> list[GridPosterior]:
    """:func:`quadrature` for every image of ``x (image, pixel)``; the model has 1 or 2 latent dimensions in all."""
    return [quadrature(log_joint(model, image), sum(model.dims), **options) for image in x]


# ---- verdicts -------------------------------------------------------------------------------------------------------


def z_scores(draws: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many Monte Carlo standard errors the draws' means and variances are off, from the effective sample sizes.

    :param draws: ``(chain, draw, ...)``. :param mean, variance: exact, ``(...)``.
    """
    import arviz as az

    shape = draws.shape[2:]
    flat = draws.reshape(*draws.shape[:2], -1)
    square = (flat - mean.reshape(-1)) ** 2

    def score(values: np.ndarray, exact: np.ndarray) -> np.ndarray:
        ess = np.array([az.ess(values[..., i], method="mean") for i in range(values.shape[-1])])
        return ((values.mean((0, 1)) - exact.reshape(-1)) / np.sqrt(values.var((0, 1)) / ess)).reshape(shape)

    return score(flat, mean), score(square, variance)


def rank_test(truth: np.ndarray, draws: np.ndarray) -> float:
    """Simulation-based calibration (Talts et al. 2018): p-value of chi-square on the ranks of the truth among its draws.

    :param truth: ``(simulation,)``. :param draws: ``(draw, simulation)``, thinned to near independence.
    """
    ranks = (draws < truth).sum(0)
    return float(stats.chisquare(np.bincount(ranks, minlength=len(draws) + 1)).pvalue)
