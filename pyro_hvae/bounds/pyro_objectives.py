"""Pyro's own ELBO objects as training objectives: accepted where they are right for the pair, refused where not."""

from __future__ import annotations

from typing import Any

import torch
from pyro import infer
from torch import Tensor

from pyro_hvae.bounds.objectives import Bound
from pyro_hvae.bounds.structure import Structure
from pyro_hvae.bounds.traces import check_layout, check_reparametrised, trace_pair
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE


def check_objective(objective: Any, vae: HVAE, x: Tensor) -> None:
    """Refuse an objective that cannot be trained on, or that is wrong for this pair; ``x`` is a small batch.

    Our own check themselves. Of Pyro's, the layout of the plates is checked as for ours, TraceMeanField_ELBO is refused
    where its analytic KL is wrong (a bottom-up guide), and the JIT variants because their Laplace draws are not finite.
    """
    if isinstance(objective, Bound):
        return
    name = type(objective).__name__
    if not isinstance(objective, infer.ELBO):
        raise HVAEError(f"an objective is a bound of ours or a pyro.infer.ELBO, got {name}")
    if isinstance(objective, (infer.ReweightedWakeSleep, infer.TraceTailAdaptive_ELBO)):
        raise HVAEError(
            f"{name} weighs particles by the density of the whole batch, not image by image, so that nearly all of the weight "
            'is on one of them; use pyro_hvae.ImportanceWeightedELBO(K, gradient="dreg")'
        )
    if name.startswith("Jit"):
        raise HVAEError(f"{name} draws infinite values from Laplace sites while it traces; use the one without Jit")
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        pair = trace_pair(vae.model, vae.guide, (x,), {})
        check_layout(pair)
        if isinstance(objective, infer.TraceMeanField_ELBO):
            with torch.enable_grad():
                check_reparametrised(trace_pair(vae.model, vae.guide, (x,), {}))
            structure = Structure.of(vae.model, vae.guide, (x,), {}, pair)
            for site in pair.latents:
                if structure.analytic_form(site, pair) != "kl":
                    below = ", ".join(sorted(structure.parents[site] & structure.inferred_from[site]))
                    raise HVAEError(
                        f"TraceMeanField_ELBO takes the KL of {site} analytically, which is wrong where the guide infers "
                        f"{below or 'other sites'} from {site} and the model conditions {site} on it; use pyro_hvae.ELBO() "
                        "or Trace_ELBO()"
                    )
