"""What a posterior file keeps of the generative model: maps, projective fields, ancestral samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_hvae.programs import HVAE, GenerativeModel
from pyro_hvae.programs.contrast import layers_of
from pyro_hvae.stimuli import Whitening


class _Put(Messenger):
    """Put the given values at latent sites, and their means at the others."""

    def __init__(self, values: Mapping[str, Tensor]):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not site_is_subsample(msg) and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values.get(msg["name"], msg["fn"].mean), True


def projective_field(model: GenerativeModel, site: str) -> Tensor:
    """½ (E[x | z = +e_i] - E[x | z = -e_i]) for each dimension i of a latent site, all else at its mean; ``(dim, pixel)``.

    For z1 this is the transpose of A.
    """
    dim = model.dims[model.sites.index(site)]
    e = torch.eye(dim).to(model.to_image.weight)
    with torch.no_grad(), _Put({site: torch.cat([e, -e])}), poutine.trace() as recorded:
        model(num_images=2 * dim)
    plus, minus = recorded.trace.nodes["x"]["fn"].mean.chunk(2)
    return 0.5 * (plus - minus)


def conditional_field(model: GenerativeModel, upper: int) -> tuple[Tensor, Tensor]:
    """How layer ``upper`` sets the one below: half the difference between z = +e_i and z = -e_i, for each dimension i.

    :returns: of the location and of the log scale of p(z_lower | z_upper), each ``(upper dim, lower dim)``.
    """
    e = torch.eye(model.dims[upper - 1]).to(model.to_image.weight)
    with torch.no_grad():
        plus, minus = (model.conditionals[upper - 2](sign * e).base_dist for sign in (1, -1))
    return 0.5 * (plus.loc - minus.loc), 0.5 * (plus.scale.log() - minus.scale.log())


def _ancestral_means(vae: HVAE, samples: int) -> np.ndarray:
    """Means of p(x | z) at ancestral samples of z, ``(sample, pixel)``."""
    trace = poutine.trace(vae.model).get_trace(num_images=samples)
    return trace.nodes["x"]["fn"].mean.cpu().numpy()


def constants(vae: HVAE, transform: Whitening | None, prior_samples: int) -> dict[str, xr.Dataset]:
    """The groups of the posterior file that do not depend on images."""
    constants: dict[str, Any] = {}
    groups: dict[str, xr.Dataset] = {}
    if (model := layers_of(vae.model)) is not None:
        groups["prior_predictive"] = xr.Dataset({"x_mean": (("sample", "pixel"), _ancestral_means(vae, prior_samples))})
        constants["A"] = (("pixel", "z1_dim"), model.A.cpu().numpy())
        constants["c"] = ("pixel", model.to_image.bias.cpu().numpy())
        constants["sigma"] = ((), float(model.sigma))
        for site in model.sites[1:]:
            constants[f"{site}_field"] = ((f"{site}_dim", "pixel"), projective_field(model, site).cpu().numpy())
        for l in range(2, model.layers + 1):
            for name, field in zip(("location", "log_scale"), conditional_field(model, l), strict=True):
                constants[f"z{l}_to_z{l - 1}_{name}"] = ((f"z{l}_dim", f"z{l - 1}_dim"), field.cpu().numpy())
    dataset = xr.Dataset(constants)
    if transform is not None:
        whitening = transform.to_dataset()
        names = {str(n): f"transform_{n}" for n in [*whitening.variables, *whitening.dims] if n != "pixel"}
        whitening = whitening.rename(names)
        dataset = xr.merge([dataset, whitening], combine_attrs="drop").assign_attrs(
            {f"transform_{name}": value for name, value in transform.to_dataset().attrs.items()}
        )
    return groups | ({"constant_data": dataset} if dataset.variables else {})
