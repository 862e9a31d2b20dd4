"""log p(x) per image: by importance sampling from the guide, and by annealed importance sampling without it.

Every estimate is a Dataset with one row per image. ``log_evidence`` is a lower bound in expectation in both cases (the log
of an unbiased estimate of p(x)); its ``standard_error`` is by the delta method, sd(w) / (mean(w) sqrt(K)), and to be
trusted only where ``ess`` is not small and, for importance sampling, ``pareto_k`` is below 0.7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.bounds.traces import log_weights
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.images import Images, images_for
from pyro_hvae.programs.pair import HVAE
from pyro_hvae.sampling.ais import PILOT_SHARE, Annealing, sigmoid_schedule
from pyro_hvae.sampling.convergence import seeded
from pyro_hvae.sampling.diagnostics import effective_sample_size, pareto_k
from pyro_hvae.sampling.hmc import check_counts
from pyro_hvae.sampling.log_joint import Joint, simulate
from pyro_hvae.sampling.memory import chunk_bytes

SCRATCH_BYTES = 2**28  # of activations at a time, unless the caller says how many rows; less where memory is scarce


@checked
def evidence_importance_sampling(
    vae: HVAE, x: Images, num_particles: int = 5000, *, chunk: int | None = None, seed: int | None = None
) -> xr.Dataset:
    """log p(x) = log E_q[p(x, z) / q(z | x)] with K draws of the guide an image, in bounded memory.

    :param x: images ``(image, pixel)``: a tensor, an array, or a dataset with ``x`` (``data.test``).
    :param num_particles: K.
    :param chunk: pairs of particle and image evaluated at a time; by default as many as take about 256 MiB, or a quarter
        of the free memory where that is less.
    :returns: ``log_evidence``, ``standard_error``, ``ess`` (Kish, of K), ``pareto_k`` (ArviZ), all ``(image)``, nats.
        ``pareto_k`` above 0.7 says that the guide is too narrow for the numbers to be believed; it is NaN where K is too
        small (25) to fit a tail, or the weights do not vary.
    """
    whole_number("num_particles", num_particles, 2)  # for a standard error
    if chunk is not None:
        check_counts(chunk=chunk)
    x = images_for(vae, x)
    rows = chunk or _rows(x, vae)
    parts = []
    with seeded(seed, x.device), torch.no_grad():
        for images in _batches(x, rows):
            # The weights of one batch of images are kept whole: a number each, where a row's activations are thousands.
            weights = [
                log_weights(vae.model, vae.guide, images, count).double().cpu()
                for count in _counts(num_particles, max(1, rows // len(images)))
            ]
            log_w = torch.cat(weights).numpy()
            parts.append(_summary(log_w).assign(pareto_k=("image", pareto_k(log_w))))
    return _joined(parts, dict(estimator="importance sampling", num_particles=num_particles, seed=str(seed)))


@checked
def evidence_ais(
    model: Callable,
    x: Images,
    *,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    leapfrog_steps: int = 10,
    seed: int | None = None,
) -> xr.Dataset:
    """log p(x) by annealed importance sampling from the prior: nothing of the guide enters.

    Neal 2001 (Stat. Comput. 11:125) along p(z) p(x | z)^t with a sigmoid schedule, Hamiltonian moves with accept/reject
    in whitened coordinates (:class:`~pyro_hvae.sampling.log_joint.Joint`), all chains and images at once. Step sizes come
    from a pilot run with separate chains (:class:`~pyro_hvae.sampling.ais.Annealing`), so each weight is an unbiased
    estimate of p(x), and the bound is strict in expectation. How loose it is, :func:`bdmc` measures.

    :param model: any Pyro program ``model(x)`` with continuous latents in one image plate.
    :param x: images ``(image, pixel)``.
    :returns: ``log_evidence``, ``standard_error``, ``ess`` (of ``num_chains``), ``acceptance_rate (image)``, and each
        chain's ``log_weight (chain, image)``.
    """
    check_counts(num_chains=num_chains, leapfrog_steps=leapfrog_steps)
    temperatures = sigmoid_schedule(num_temperatures)
    x = images_for(model, x)
    parts = []
    with seeded(seed, x.device):
        for images in _batches(x, _rows(x, model) // num_chains):
            annealing = _pilot(model, images, temperatures, num_chains, leapfrog_steps)
            log_w, acceptance = annealing.forward(Joint(model, images, num_chains))
            parts.append(_ais_summary(log_w, acceptance))
    return _joined(
        parts, _ais_attrs("annealed importance sampling", num_temperatures, num_chains, leapfrog_steps, seed)
    )


@checked
def bdmc(
    model: Callable,
    *,
    num_images: int = 20,
    pixels: int | None = None,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    leapfrog_steps: int = 10,
    seed: int | None = None,
) -> xr.Dataset:
    """How tight :func:`evidence_ais` is, on images drawn from the model: a lower and an upper bound on log p(x).

    Bidirectional Monte Carlo (Grosse, Ghahramani & Adams 2015, arXiv 1511.02543): the latents an image was made from are
    an exact draw of its posterior. The chain run backwards from there gives E[1/w] = 1/p(x), hence an upper bound in
    expectation. All backward chains of an image start from that one draw, spread out by transitions that keep the posterior.

    :param pixels: image size; needed only for a model without an attribute ``pixels``.
    :returns: ``lower``, ``upper``, ``gap`` = upper - lower (nats, ``(image)``), ``lower_standard_error`` (that of the
        upper bound is not known: its chains share their start), and the simulated ``x (image, pixel)``. Single gaps may be
        negative by Monte Carlo error; their mean over images bounds the error of either.
    """
    check_counts(num_images=num_images, num_chains=num_chains, leapfrog_steps=leapfrog_steps)
    temperatures = sigmoid_schedule(num_temperatures)
    size = pixels if pixels is not None else getattr(model, "pixels", None)
    if size is None:
        raise HVAEError(f"{type(model).__name__} has no attribute 'pixels'; give bdmc(model, pixels=...)")
    size = whole_number("pixels", size, 1)
    parameter = next(model.parameters(), torch.zeros(())) if isinstance(model, nn.Module) else torch.zeros(())
    parts, start = [], 0
    with seeded(seed, parameter.device):
        z, x = simulate(model, num_images, parameter.new_zeros(1, size))
        for images in _batches(x, _rows(x, model) // num_chains):
            here = slice(start, start := start + len(images))
            annealing = _pilot(model, images, temperatures, num_chains, leapfrog_steps)
            joint = Joint(model, images, num_chains)
            lower = _ais_summary(*annealing.forward(joint))
            log_w, _ = annealing.backward(joint, joint.whiten({site: value[here] for site, value in z.items()}))
            upper = -(torch.logsumexp(-log_w, 0) - math.log(num_chains)).cpu().numpy()
            parts.append(
                xr.Dataset(
                    {
                        "lower": lower.log_evidence,
                        "upper": ("image", upper),
                        "gap": ("image", upper - lower.log_evidence.values),
                        "lower_standard_error": lower.standard_error,
                        "x": (("image", "pixel"), images.cpu().numpy()),
                    }
                )
            )
    return _joined(parts, _ais_attrs("bidirectional Monte Carlo", num_temperatures, num_chains, leapfrog_steps, seed))


def row_bytes(x: Tensor, *programs: Callable) -> int:
    """Rough upper estimate of the memory that one particle of one image takes in a run of the programs."""
    modules = [module for program in programs if isinstance(program, nn.Module) for module in program.modules()]
    width = sum(m.out_features + m.in_features for m in modules if isinstance(m, nn.Linear))
    return x.element_size() * 4 * (width + 8 * x.shape[-1])


def _rows(x: Tensor, program: Callable) -> int:
    """Pairs of particle and image that are evaluated at a time."""
    return max(1, chunk_bytes(SCRATCH_BYTES, x.device) // row_bytes(x, program))


def _batches(x: Tensor, rows: int) -> Iterator[Tensor]:
    yield from x.split(max(1, min(rows, 256)))


def _counts(total: int, each: int) -> list[int]:
    return [each] * (total // each) + ([total % each] if total % each else [])


def _pilot(model: Callable, x: Tensor, temperatures: Tensor, num_chains: int, leapfrog_steps: int) -> Annealing:
    return Annealing.tuned(Joint(model, x, max(1, num_chains // PILOT_SHARE)), temperatures, leapfrog_steps)


def _summary(log_w: np.ndarray) -> xr.Dataset:
    """Log of the mean weight of each image, from log weights ``(particle, image)``."""
    count = len(log_w)
    shift = log_w.max(0)
    w = np.exp(log_w - shift)
    mean = w.mean(0)
    error = w.std(0, ddof=1) / (mean * math.sqrt(count)) if count > 1 else np.full_like(mean, np.nan)
    values = {"log_evidence": shift + np.log(mean), "standard_error": error, "ess": effective_sample_size(log_w)}
    return xr.Dataset({name: ("image", value) for name, value in values.items()})


def _ais_summary(log_w: Tensor, acceptance: Tensor) -> xr.Dataset:
    weights = log_w.cpu().numpy()
    return _summary(weights).assign(
        acceptance_rate=("image", acceptance.mean(0).cpu().numpy()), log_weight=(("chain", "image"), weights)
    )


def _joined(parts: list[xr.Dataset], attrs: dict[str, str | int]) -> xr.Dataset:
    result = xr.concat(parts, "image")
    return result.assign_coords(image=np.arange(result.sizes["image"])).assign_attrs(attrs)


def _ais_attrs(estimator: str, temperatures: int, chains: int, steps: int, seed: int | None) -> dict[str, str | int]:
    return dict(
        estimator=estimator,
        num_temperatures=temperatures,
        num_chains=chains,
        leapfrog_steps=steps,
        seed=str(seed),
    )
