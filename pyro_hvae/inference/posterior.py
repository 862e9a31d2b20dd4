"""Posteriors of many images as labelled arrays: moments always, draws when asked for, in bounded memory."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_hvae import files
from pyro_hvae.errors import HVAEError
from pyro_hvae.inference.diagnostics import effective_sample_size, pareto_k
from pyro_hvae.inference.runs import git_revision, versions
from pyro_hvae.inference.structure import Structure
from pyro_hvae.inference.traces import PairTrace, check_layout, log_prob, sample_sites, trace_pair
from pyro_hvae.programs import HVAE, GenerativeModel
from pyro_hvae.stimuli import PatchData, Whitening

MEMORY = 256 * 2**20  # bytes that the particles of one chunk may take, roughly


@dataclass(frozen=True)
class _Request:
    """What is computed for each image."""

    draws: int
    resample: int
    """Proposals a returned draw is chosen from; 1 for the guide itself."""
    moment_draws: int
    units: tuple[int, ...]


def export_posterior(
    vae: HVAE,
    images: xr.Dataset | PatchData | np.ndarray | Tensor,
    *,
    draws: int = 0,
    resample: int | None = None,
    moment_draws: int = 64,
    units: Sequence[int] = (),
    prior_samples: int = 64,
    transform: Whitening | None = None,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> xr.DataTree:
    """Infer the causes of images and lay the posteriors down as labelled arrays (table in ``docs/architecture.md``).

    Moments of z1 are taken exactly given the layers above and averaged over ``moment_draws`` draws of those (law of total
    variance), so they are far less noisy than moments of draws. Everything is computed chunk by chunk.

    :param images: patches of the model's size: a dataset with ``x (image, pixel)`` and labels (``data.test``), a
        :class:`~pyro_hvae.stimuli.PatchData` (its test set and transform), or an array ``(image, pixel)``.
    :param draws: posterior draws an image to store, with their log weights, densities, k-hat; 0 for none.
    :param resample: importance resampling: each draw is one of this many proposals, chosen by weight (Algorithm 2 of
        Vas 2024). Moments, too, are then self-normalised over such groups, ``draws`` of them.
    :param units: z1 dimensions whose posterior correlation matrix is stored for every image.
    :param prior_samples: ancestral samples of the model to store.
    :param transform: the preprocessing of the images, kept in the file.
    :param path: file to write, zarr if it ends in ``.zarr``, netCDF-4 otherwise; None keeps everything in memory.
    :returns: the opened file, or the tree in memory.
    :raises HVAEError: for images of another size or with NaN, an existing path, options that do not fit.
    """
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            tree = export_posterior(
                vae, images, draws=draws, resample=resample, moment_draws=moment_draws, units=units,
                prior_samples=prior_samples, transform=transform, path=Path(folder) / "posterior.nc", seed=seed,
            )  # fmt: skip
            with tree:
                loaded = tree.load()
            del loaded.attrs["file"]
            return loaded
    if isinstance(images, PatchData):
        transform = images.transform if transform is None else transform
        images = images.test
    dataset = _dataset(images, vae.pixels)
    request = _check(vae, draws, resample, moment_draws, units)
    device = next(vae.parameters()).device
    attrs = _attributes(vae, request, seed)
    partial = not isinstance(vae.model, GenerativeModel)
    writer = files.PosteriorWriter(path, attrs, overwrite=overwrite, partial=partial)
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), writer:
        torch.manual_seed(seed)
        moments = _Moments(vae, dataset, request, device)
        for start in range(0, dataset.sizes["image"], moments.chunk):
            chunk = dataset.isel(image=slice(start, start + moments.chunk))
            writer.append(moments.of(chunk) | _observed(chunk))
        writer.write(_constants(vae, transform, prior_samples))
    return files.open_posterior(path, partial=partial)


def _dataset(images: xr.Dataset | np.ndarray | Tensor, pixels: int) -> xr.Dataset:
    if isinstance(images, Tensor):
        images = images.detach().cpu().numpy()
    if not isinstance(images, xr.Dataset):
        images = xr.Dataset({"x": (("image", "pixel"), np.asarray(images))})
    if "x" not in images or images["x"].dims != ("image", "pixel") or images.sizes["pixel"] != pixels:
        raise HVAEError(f"expected images x (image, pixel) of {pixels} pixels, got {dict(images.sizes)}; whiten and flatten "
                        "patches of the model's size")  # fmt: skip
    if images.sizes["image"] == 0:
        raise HVAEError("there are no images to infer the causes of")
    return images


def _check(vae: HVAE, draws: int, resample: int | None, moment_draws: int, units: Sequence[int]) -> _Request:
    if draws < 0 or moment_draws < 2:
        raise HVAEError(f"draws must be 0 or more and moment_draws 2 or more, got {draws} and {moment_draws}")
    if resample is not None and (resample < 1 or draws < 2):
        raise HVAEError(f"resample={resample} needs draws (at least 2, got {draws}) and at least 1 proposal a draw")
    dim = vae.latents.get("z1", 0)
    if any(not 0 <= u < dim for u in units) or len(set(units)) != len(units):
        raise HVAEError(f"units are distinct indices of z1, from 0 to {dim - 1}; got {list(units)[:10]}")
    return _Request(draws, resample or 1, moment_draws, tuple(units))


class _Moments:
    """Everything that is per image, for chunks of images, summed over blocks of particles."""

    def __init__(self, vae: HVAE, dataset: xr.Dataset, request: _Request, device: torch.device):
        self.vae, self.request, self.device = vae, request, device
        probe = self._x(dataset.isel(image=slice(2)))
        pair = trace_pair(vae.model, vae.guide, (probe,), {})
        check_layout(pair)
        structure = Structure.of(vae.model, vae.guide, (probe,), {}, pair)
        self.forms = {site: structure.analytic_form(site, pair) for site in vae.sites}
        widest = sum(p.shape[0] for p in vae.parameters() if p.dim() == 2) + sum(vae.latents.values())
        particles = max(MEMORY // (4 * widest), 1)
        self.resampled = request.resample > 1
        self.groups = request.draws if self.resampled else max(request.draws, request.moment_draws)
        self.block = max(min(self.groups, particles // request.resample), 1)
        self.chunk = int(np.clip(particles // (self.block * request.resample), 1, 1000))

    def _x(self, chunk: xr.Dataset) -> Tensor:
        values = np.asarray(chunk["x"].values)
        if not np.isfinite(values).all():
            raise HVAEError("the images hold NaN or infinite values")
        like = next(self.vae.parameters())
        return torch.from_numpy(np.ascontiguousarray(values)).to(device=self.device, dtype=like.dtype)

    def of(self, chunk: xr.Dataset) -> dict[str, xr.Dataset]:
        """The per-image groups of the posterior file."""
        x = self._x(chunk)
        total = _Sums()
        kept: dict[str, list[Tensor]] = {}
        for start in range(0, self.groups, self.block):
            groups = min(self.block, self.groups - start)
            pair = trace_pair(self.vae.model, self.vae.guide, (x,), {}, groups * self.request.resample)
            self._accumulate(pair, groups, total, kept)
        return self._groups(total, {name: torch.cat(parts)[: self.request.draws] for name, parts in kept.items()})

    def _accumulate(self, pair: PairTrace, groups: int, total: _Sums, kept: dict[str, list[Tensor]]) -> None:
        k = self.request.resample
        guide = sample_sites(pair.guide, observed=False)
        (image,) = pair.observed.values()

        def grouped(t: Tensor) -> Tensor:  # (groups * k, image, ...) -> (groups, k, image, ...)
            return t.reshape(groups, k, *t.shape[1 if groups * k > 1 else 0 :])

        log_p = {s: grouped(log_prob(node)) for s, node in pair.latents.items()}
        log_q = {s: grouped(log_prob(node)) for s, node in guide.items()}
        log_x = grouped(log_prob(image))
        log_w = log_x + sum(log_p.values()) - sum(log_q.values())
        W = torch.softmax(log_w, 1)

        def mean(name: str, t: Tensor) -> None:
            """Weighted over the proposals of a group, averaged over groups."""
            total.add(name, torch.einsum("gkb,gkb...->b...", W, t) if k > 1 else t.sum((0, 1)), groups)

        def moments(name: str, t: Tensor) -> Tensor:
            """First and second moments around the first value seen, so that small variances survive in float32."""
            t = t - total.reference(name, t[0, 0])
            mean(f"{name}_first", t)
            mean(f"{name}_second", t**2)
            return t

        for site, node in guide.items():
            q, p = node["fn"].base_dist, pair.latents[site]["fn"].base_dist
            conditional = grouped(node["fn"].mean)
            centred = moments(site, grouped(node["value"]) if self.resampled else conditional)
            if not self.resampled:
                mean(f"{site}_within", grouped(node["fn"].variance))
            if site == "z1":
                moments("given", conditional)
                if self.request.units:
                    u = centred[..., list(self.request.units)]
                    total.add("cross", torch.einsum("gkb,gkbi,gkbj->bij", W, u, u), groups)
            if self.forms[site] == "kl" and not self.resampled:
                per_dim = kl_divergence(q, p)
            else:
                per_dim = q.log_prob(node["value"]) - p.log_prob(node["value"])
            mean(f"{site}_kl", grouped(per_dim))
        moments("x", grouped(image["fn"].mean))
        mean("x_within", grouped(image["fn"].variance))
        mean("reconstruction", log_x)
        if self.request.draws:
            chosen = (
                torch.distributions.Categorical(logits=log_w.movedim(1, -1)).sample()
                if k > 1
                else log_w[:, 0].long() * 0
            )

            def pick(t: Tensor) -> Tensor:
                index = chosen.reshape(chosen.shape[0], 1, *chosen.shape[1:], *(1,) * (t.dim() - 3))
                return torch.take_along_dim(t, index, 1).squeeze(1)

            for site, node in guide.items():
                kept.setdefault(site, []).append(pick(grouped(node["value"])))
                kept.setdefault(f"{site}_log_p", []).append(pick(log_p[site]))
                kept.setdefault(f"{site}_log_q", []).append(pick(log_q[site]))
            kept.setdefault("log_x", []).append(pick(log_x))
            kept.setdefault("log_weight", []).append(torch.logsumexp(log_w, 1) - np.log(k))
            kept.setdefault("all_weights", []).append(log_w)

    def _groups(self, total: _Sums, kept: dict[str, Tensor]) -> dict[str, xr.Dataset]:
        moments: dict[str, Any] = {}
        bound: dict[str, Any] = {"reconstruction": ("image", total.mean("reconstruction"))}
        elbo = total.mean("reconstruction")
        for site in self.vae.sites:
            dims = ("image", f"{site}_dim")
            kl = total.mean(f"{site}_kl")
            moments[f"{site}_mean"] = (dims, total.centre(site))
            moments[f"{site}_variance"] = (dims, total.variance(site, within=not self.resampled))
            moments[f"{site}_kl"] = (dims, kl)
            bound[f"{site}_kl"] = ("image", kl.sum(-1))
            elbo = elbo - kl.sum(-1)
        bound["elbo"] = ("image", elbo)
        if "z1" in self.vae.latents and len(self.vae.latents) > 1:
            moments["z1_variance_from_z2"] = (("image", "z1_dim"), total.variance("given"))
        coordinates = {}
        if units := list(self.request.units):
            first = total.mean("z1_first")[:, units]
            covariance = (total.mean("cross") - first[:, :, None] * first[:, None, :]) * total.correction("cross")
            variance = moments["z1_variance"][1][:, units]
            diagonal = np.arange(len(units))
            covariance[:, diagonal, diagonal] = variance
            scale = np.sqrt(variance)
            moments["z1_correlation"] = (
                ("image", "unit", "unit_bis"),
                covariance / (scale[:, :, None] * scale[:, None, :]),
            )
            coordinates = {"unit": units, "unit_bis": units}
        predictive = {
            "x_mean": (("image", "pixel"), total.centre("x")),
            "x_variance": (("image", "pixel"), total.variance("x", within=True)),
        }
        groups = {
            "posterior_moments": xr.Dataset(moments, coordinates),
            "posterior_predictive": xr.Dataset(predictive),
            "bound": xr.Dataset(bound),
        }
        return groups | (self._drawn({n: t.cpu().numpy() for n, t in kept.items()}) if kept else {})

    def _drawn(self, kept: dict[str, np.ndarray]) -> dict[str, xr.Dataset]:
        dims = ("chain", "draw", "image")
        weights = kept["all_weights"].reshape(-1, kept["all_weights"].shape[-1])
        latents = {s: ((*dims, f"{s}_dim"), kept[s][None]) for s in self.vae.sites}
        densities = {f"{s}_log_{d}": (dims, kept[f"{s}_log_{d}"][None]) for s in self.vae.sites for d in "pq"}
        statistics = {
            "log_weight": (dims, kept["log_weight"][None]),
            "ess": ("image", effective_sample_size(weights)),
            "pareto_k": ("image", pareto_k(weights)),
        }
        return {
            "posterior": xr.Dataset(latents),
            "sample_stats": xr.Dataset(statistics),
            "log_density": xr.Dataset(densities),
            "log_likelihood": xr.Dataset({"x": (dims, kept["log_x"][None])}),
        }


class _Sums:
    """Running sums in float64 over groups of particles."""

    def __init__(self) -> None:
        self.references: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, summed: Tensor, groups: int) -> None:
        self.sums[name] = self.sums.get(name, 0) + summed.double()
        self.counts[name] = self.counts.get(name, 0) + groups

    def mean(self, name: str) -> np.ndarray:
        return (self.sums[name] / self.counts[name]).cpu().numpy()

    def reference(self, name: str, value: Tensor) -> Tensor:
        """What the moments of ``name`` are taken around: the first value asked for."""
        return self.references.setdefault(name, value)

    def centre(self, name: str) -> np.ndarray:
        """Mean of a quantity of which moments were taken."""
        return self.references[name].double().cpu().numpy() + self.mean(f"{name}_first")

    def correction(self, name: str) -> float:
        """n / (n - 1): a variance between n draws estimated around their own mean."""
        return self.counts[name] / (self.counts[name] - 1)

    def variance(self, name: str, *, within: bool = False) -> np.ndarray:
        """Between draws, plus the mean variance within them (law of total variance)."""
        between = np.maximum(self.mean(f"{name}_second") - self.mean(f"{name}_first") ** 2, 0)
        between *= self.correction(f"{name}_first")
        return between + self.mean(f"{name}_within") if within else between


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


def _constants(vae: HVAE, transform: Whitening | None, prior_samples: int) -> dict[str, xr.Dataset]:
    constants: dict[str, Any] = {}
    groups: dict[str, xr.Dataset] = {}
    if isinstance(vae.model, GenerativeModel):
        groups["prior_predictive"] = xr.Dataset({"x_mean": (("sample", "pixel"), _ancestral_means(vae, prior_samples))})
        constants["A"] = (("pixel", "z1_dim"), vae.model.A.cpu().numpy())
        constants["c"] = ("pixel", vae.model.to_image.bias.cpu().numpy())
        constants["sigma"] = ((), float(vae.model.sigma))
        for site in vae.sites[1:]:
            constants[f"{site}_field"] = ((f"{site}_dim", "pixel"), projective_field(vae.model, site).cpu().numpy())
        for l in range(2, vae.model.layers + 1):
            for name, field in zip(("location", "log_scale"), conditional_field(vae.model, l), strict=True):
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


def _observed(chunk: xr.Dataset) -> dict[str, xr.Dataset]:
    observed = {name: (("image", "pixel"), np.asarray(chunk[name].values)) for name in ("x", "mask") if name in chunk}
    labels = {name: ("image", np.asarray(chunk[name].values)) for name in files.LABELS if name in chunk.variables}
    groups = {"observed_data": xr.Dataset(observed)}
    return groups | ({"constant_data": xr.Dataset(coords=labels)} if labels else {})


def _attributes(vae: HVAE, request: _Request, seed: int) -> dict[str, Any]:
    config, training = vae.config, vae.record
    objective = training.get("objective", {})
    posterior = {
        "draws": request.draws,
        "resample": request.resample,
        "moment_draws": request.moment_draws,
        "seed": seed,
    }
    return {
        "preset": vae.preset or "",
        "model": config["model"]["class"],
        "guide": config["guide"]["class"],
        "configuration": json.dumps({"vae": config, "training": training, "posterior": posterior}),
        "objective": objective.get("class", ""),
        "particles": objective.get("num_particles", 0),
        "seed": seed,
        "versions": json.dumps(versions()),
        "git_revision": git_revision(),
    }
