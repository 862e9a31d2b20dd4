"""Where the gap between the ELBO and log p(x) is: what amortisation costs, and what the families of q cannot do."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.bounds.structure import Structure
from pyro_hvae.bounds.traces import Clamp, check_layout, log_prob, replay_model, sample_sites, trace_pair, vectorise
from pyro_hvae.export.refinement import COMPARED, TOGETHER, all_together, elbo, refine
from pyro_hvae.programs import HVAE
from pyro_hvae.sampling.evidence import evidence_importance_sampling

PARTS = ("amortisation_z1", "amortisation_upper", "family_z1", "family_upper")
UPPER_DRAWS = 30  # of the layers above z1, over which the family of q(z1 | x, z2) is judged
ROWS = 20_000  # pairs of image and particle evaluated at a time


@checked
def gap(vae: HVAE, x: Tensor, *, steps: int = 200, draws: int = 1000, seed: int = 0) -> xr.Dataset:
    """log p(x) - ELBO of each image, split into four parts that sum to it.

    ``amortisation_z1``
        What the ELBO gains when q(z1 | …) is refined for each image (:func:`~pyro_hvae.export.refinement.refine`).
    ``amortisation_upper``
        What it gains further when the layers above are refined with it.
    ``family_z1``
        E_q[log p(x | z2, …) - F(z2, …)] under the refined q, F being the lower bound of log p(x | z2, …) that q(z1 | x, z2)
        gives; log p(x | z2, …) by importance sampling over z1.
    ``family_upper``
        The rest: KL[q(z2, … | x) || p(z2, … | x)] of the refined q.

    With one layer the upper parts are zero, and ``family_z1`` is all the rest; so it is for a guide that infers the layers
    above from z1 (bottom-up), where splitting what is left has no meaning.

    :param x: images ``(image, pixel)``.
    :param steps: of the refinement.
    :param draws: importance samples for log p(x), from the refined guide; half as many for log p(x | z2) in each of 30 draws.
    :returns: in nats, along ``image``: the parts and ``*_standard_error`` of each (of the draws), ``elbo``, ``log_evidence``
        and its ``standard_error``, ``pareto_k``. Where that is above 0.7, ``log_evidence`` and the last part are lower bounds.
    """
    whole_number("draws", draws, 50)  # fewer say nothing of log p(x)
    if len(x) > TOGETHER:
        parts = [gap(vae, part, steps=steps, draws=draws, seed=seed + i) for i, part in enumerate(x.split(TOGETHER))]
        return xr.concat(parts, "image", combine_attrs="override")
    lower = refine(vae, x, steps, sites=("z1",), seed=seed)
    whole = refine(vae, x, steps, start=lower.guide.shifts, seed=seed + 1)
    values, errors = [], []
    for pair in (vae, lower, whole):  # over the same random numbers
        value, error = elbo(pair, x, COMPARED, seed + 2)
        values.append(value.cpu().numpy())
        errors.append(error.cpu().numpy())
    evidence = evidence_importance_sampling(whole, x, draws, seed=seed + 3, **all_together(whole, x))
    log_p, log_p_error = evidence["log_evidence"].values, evidence["standard_error"].values
    rest = log_p - values[2]
    rest_error = np.hypot(log_p_error, errors[2])
    parts = {"amortisation_z1": values[1] - values[0], "amortisation_upper": values[2] - values[1]}
    spread = {"amortisation_z1": np.hypot(errors[0], errors[1]), "amortisation_upper": np.hypot(errors[1], errors[2])}
    if len(vae.latents) == 1:
        parts["amortisation_upper"] = spread["amortisation_upper"] = np.zeros_like(log_p)
        parts["amortisation_z1"], spread["amortisation_z1"] = values[2] - values[0], np.hypot(errors[0], errors[2])
    if len(vae.latents) == 1 or not _z1_last(vae, x):
        parts["family_z1"], parts["family_upper"] = rest, np.zeros_like(rest)
        spread["family_z1"], spread["family_upper"] = rest_error, np.zeros_like(rest)
        split = "merged in family_z1"
    else:
        inner, inner_error = _inner_gap(whole, x, draws // 2, seed + 4)
        parts["family_z1"], parts["family_upper"] = inner, rest - inner
        spread["family_z1"], spread["family_upper"] = inner_error, np.hypot(rest_error, inner_error)
        split = "by layer"
    data = {name: parts[name] for name in PARTS} | {f"{name}_standard_error": spread[name] for name in PARTS}
    data |= {
        "elbo": values[0],
        "log_evidence": log_p,
        "standard_error": log_p_error,
        "pareto_k": evidence["pareto_k"].values,
    }
    attrs = {"refinement_steps": steps, "num_particles": draws, "seed": seed, "family": split}
    return xr.Dataset(
        {k: ("image", v, {"units": "nats"} if k != "pareto_k" else {}) for k, v in data.items()}, attrs=attrs
    )


@torch.no_grad()
def _z1_last(vae: HVAE, x: Tensor) -> bool:
    """Whether the guide infers z1 last, given the layers above."""
    pair = trace_pair(vae.model, vae.guide, (x,), {})
    check_layout(pair)
    return "z1" in vae.latents and not Structure.of(vae.model, vae.guide, (x,), {}, pair).inferred_from["z1"]


@torch.no_grad()
def _inner_gap(vae: HVAE, x: Tensor, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """E_q(z2 | x)[log p(x | z2) - F(z2)] of each image, and its standard error over draws of z2."""
    found = []
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        for _ in range(UPPER_DRAWS):
            drawn = sample_sites(trace_pair(vae.model, vae.guide, (x,), {}).guide, observed=False)
            above = {name: node["value"] for name, node in drawn.items() if name != "z1"}
            weights = []
            left = draws
            while left > 0:
                count = max(2, min(left, ROWS // len(x)))
                left -= count
                with Clamp({name: value.expand(count, *value.shape) for name, value in above.items()}):
                    recorded = _trace(vae, x, count)
                pair = replay_model(vae.model, recorded, (x,), {}, count)
                (image,) = pair.observed.values()
                weights.append(log_prob(image) + log_prob(pair.model.nodes["z1"]) - log_prob(recorded.nodes["z1"]))
            w = torch.cat(weights).double()
            found.append(torch.logsumexp(w, 0) - math.log(len(w)) - w.mean(0))
    values = torch.stack(found)
    return values.mean(0).cpu().numpy(), (values.std(0) / len(values) ** 0.5).cpu().numpy()


def _trace(vae: HVAE, x: Tensor, count: int) -> Trace:
    return poutine.trace(vectorise(vae.guide, count)).get_trace(x)
