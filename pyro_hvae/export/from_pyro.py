"""Draws of any Pyro guide in ArviZ's schema. Of this package it needs the errors and the checks of arguments, and nothing else.

Written so that it could stand in another package: what is converted is a model and a guide as ``pyro.infer.SVI`` takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from pyro_hvae.arguments import checked, seed_of, whole_number
from pyro_hvae.errors import HVAEError

Site = dict[str, Any]


@checked
def from_pyro(
    model: Any,
    guide: Any,
    *args: Any,
    draws: int = 1000,
    prior: int = 0,
    predictive: bool = False,
    log_likelihood: bool = True,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    parallel: bool = False,
    seed: int = 0,
    model_kwargs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Draw from the guide and lay out everything that ArviZ knows a group for.

    ======================== =================================================================================================
    group                    variables
    ======================== =================================================================================================
    ``posterior``            latent sites and deterministic ones, ``(chain, draw, plates…, event…)``
    ``sample_stats``         ``log_weight = log p(x, z) - log q(z)``, of each element of the plates that all sites share (a
                             plate of images: one weight an image), of the whole where they share none
    ``log_likelihood``       log p(x | z) of observed sites, elementwise over plates
    ``posterior_predictive`` observed sites drawn anew given the draws of the guide (``predictive=True``)
    ``prior``                latent and deterministic sites drawn from the model (``prior=N``); observed ones in
                             ``prior_predictive``
    ``observed_data``        observed sites as given
    ======================== =================================================================================================

    Plates give their names to dims, event dims are ``site_dim_0`` … or what ``dims`` says. The draws are independent: there
    is one chain, and R-hat says nothing. Importance weights do: ``az.psislw`` of ``log_weight`` gives k-hat, element by
    element.

    :param model, guide: callables, as ``pyro.infer.SVI`` takes them, trained: their parameters are read from where they are.
    :param args: what both are called with: the data.
    :param model_kwargs: what both are called with by name.
    :param draws: of the guide, at least 1.
    :param prior: draws of the model without the data.
    :param dims: names of the event dims, by site: ``{"z": ["unit"]}``.
    :param coords: labels along dims.
    :param parallel: all draws in one run of model and guide, in a plate to the left of theirs, as ``pyro.infer.Predictive``
        has it; the programs must allow it. By default they are run once a draw, which is always right.
    :param seed: of the draws; the global random state is left as it was.
    :returns: a tree that ArviZ 1.x takes as it is; for ArviZ 0.23 ``az.InferenceData.from_datatree(tree)``.
    :raises HVAEError: for sites that model and guide do not share, plates that are subsampled, and names that do not exist.
    """
    whole_number("draws", draws, 1), whole_number("prior", prior)
    for name, program in (("model", model), ("guide", guide)):
        if not callable(program):
            raise HVAEError(f"the {name} must be a callable Pyro program, got {type(program).__name__}")
    runs = _Runs(model, guide, args, dict(model_kwargs or {}), parallel)
    with torch.no_grad(), _seeded(seed):
        runs.prepare()
        posterior = runs.posterior(draws, predictive)
        ancestral = runs.prior(prior) if prior else {}
    names = _Names(dict(dims or {}), dict(coords or {}), posterior)
    groups = {
        "posterior": names.group({n: s for n, s in posterior.items() if s.kind in ("latent", "deterministic")}),
        "sample_stats": names.dataset({"log_weight": runs.log_weight(posterior)}),
        "log_likelihood": names.group({n: s for n, s in posterior.items() if s.kind == "observed"}, "log_prob"),
        "posterior_predictive": names.group({n: s for n, s in posterior.items() if s.kind == "observed"}, "predicted"),
        "prior": names.group({n: s for n, s in ancestral.items() if s.kind in ("latent", "deterministic")}),
        "prior_predictive": names.group({n: s for n, s in ancestral.items() if s.kind == "observed"}, "predicted"),
        "observed_data": names.group({n: s for n, s in posterior.items() if s.kind == "observed"}, "observed"),
    }
    names.check_all_used()
    if not log_likelihood:
        del groups["log_likelihood"]
    said = {
        "created_at": datetime.now(UTC).isoformat(), "inference_library": "pyro", "sampling_method": "guide",
        "inference_library_version": pyro.__version__,
    }  # fmt: skip
    return xr.DataTree.from_dict({
        "/": xr.Dataset(attrs=said),
        **{name: group.assign_attrs(said) for name, group in groups.items() if group.data_vars},
    })  # fmt: skip


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(seed_of(seed))
        yield


class _Laid:
    """A site over all draws: values ``(draw, batch…, event…)`` and what its dims are called."""

    def __init__(self, kind: str, plates: Sequence[str | None], event_dim: int):
        self.kind, self.plates, self.event_dim = kind, tuple(plates), event_dim
        self.values: list[Tensor] = []
        self.log_prob: list[Tensor] = []  # unscaled, of the model, (draw, batch…)
        self.weight: list[Tensor] = []  # what it adds to log p - log q, (draw, batch…)
        self.predicted: list[Tensor] = []


class _Runs:
    """Runs of model and guide, one a draw or all at once."""

    def __init__(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], parallel: bool):
        self.model, self.guide, self.args, self.kwargs, self.parallel = model, guide, args, kwargs, parallel
        self.nesting = 0

    def prepare(self) -> None:
        """Run the pair once: how deep plates are nested, and whether the two fit."""
        guide = poutine.trace(self.guide).get_trace(*self.args, **self.kwargs)
        model = poutine.trace(poutine.replay(self.model, guide)).get_trace(*self.args, **self.kwargs)
        for trace in (guide, model):
            for name, site in trace.nodes.items():
                frames = [f for f in site.get("cond_indep_stack", ()) if f.vectorized]
                self.nesting = max(self.nesting, *(-f.dim for f in frames), 0)
                if type(site.get("fn")).__name__ == "_Subsample" and site["fn"].subsample_size not in (
                    None,
                    site["fn"].size,
                ):
                    raise HVAEError(
                        f"plate {name!r} is subsampled ({site['fn'].subsample_size} of {site['fn'].size}): draws of different "
                        "elements cannot be laid side by side; call with all data and without subsampling"
                    )
        latent = {n for n, s in model.nodes.items() if _kind(s) == "latent"}
        proposed = {n for n, s in guide.nodes.items() if _kind(s) == "latent" and not s["infer"].get("is_auxiliary")}
        if latent != proposed:
            raise HVAEError(
                "the guide must draw every latent site of the model and no other; only in the model: "
                f"{sorted(latent - proposed)}, only in the guide: {sorted(proposed - latent)}"
            )
        if not latent:
            raise HVAEError("the model has no latent site: there is no posterior to convert")

    def _run(self, program: Any, count: int) -> Any:
        """A trace, under a plate of draws where they are run at once."""
        if not self.parallel:
            return poutine.trace(program).get_trace(*self.args, **self.kwargs)

        def all_at_once(*args: Any, **kwargs: Any) -> Any:
            with pyro.plate("_draws", count, dim=-1 - self.nesting):
                return program(*args, **kwargs)

        return poutine.trace(all_at_once).get_trace(*self.args, **self.kwargs)

    def posterior(self, draws: int, predictive: bool) -> dict[str, _Laid]:
        """Latent, deterministic and observed sites of the model under draws of the guide."""
        laid: dict[str, _Laid] = {}
        for _ in range(1 if self.parallel else draws):
            guide = self._run(self.guide, draws)
            model = self._run(poutine.replay(self.model, guide), draws)
            guide.compute_log_prob(), model.compute_log_prob()
            for name, site in model.nodes.items():
                if (kind := _kind(site)) is not None:
                    self._add(laid, name, kind, site, draws, site["log_prob"], guide.nodes.get(name))
            for name, site in guide.nodes.items():  # what an automatic guide draws first, of which sites are functions
                if _kind(site) == "latent" and name not in model.nodes:
                    self._add(laid, name, "auxiliary", site, draws, -site["log_prob"], None)
            if predictive:
                anew = self._run(poutine.uncondition(poutine.replay(self.model, guide)), draws)
                for name, site in laid.items():
                    if site.kind == "observed":
                        site.predicted.append(self._whole(anew.nodes[name]["value"], anew.nodes[name], draws))
        return laid

    def prior(self, draws: int) -> dict[str, _Laid]:
        """The model's sites without the data."""
        laid: dict[str, _Laid] = {}
        for _ in range(1 if self.parallel else draws):
            trace = self._run(poutine.uncondition(self.model), draws)
            for name, site in trace.nodes.items():
                kind = "observed" if site.get("infer", {}).get("was_observed") else _kind(site)
                kind = "deterministic" if site.get("infer", {}).get("_deterministic") else kind
                if kind is not None:
                    self._add(laid, name, kind, site, draws, torch.zeros(()), None)
                    if kind == "observed":
                        laid[name].predicted.append(laid[name].values[-1])
        return laid

    def _add(
        self,
        laid: dict[str, _Laid],
        name: str,
        kind: str,
        site: Site,
        draws: int,
        weight: Tensor,
        proposal: Site | None,
    ) -> None:
        batch = len(site["fn"].batch_shape) if not self.parallel else self.nesting + 1
        plates = {f.dim: f.name for f in site["cond_indep_stack"] if f.vectorized and f.name != "_draws"}
        if name not in laid:
            offset = 1 if self.parallel else 0
            laid[name] = _Laid(kind, [plates.get(d - batch) for d in range(offset, batch)], site["fn"].event_dim)
        found = laid[name]
        found.values.append(self._whole(site["value"], site, draws))
        if proposal is not None:
            weight = weight - proposal["log_prob"]
        found.weight.append(self._whole(weight, site, draws, event=False))
        if kind == "observed" and "unscaled_log_prob" in site:  # ancestral draws have none
            found.log_prob.append(self._whole(site["unscaled_log_prob"], site, draws, event=False))

    def _whole(self, value: Any, site: Site, draws: int, *, event: bool = True) -> Tensor:
        """A value over all its batch dims, with draws in front."""
        shape = tuple(site["fn"].batch_shape)
        if self.parallel:
            shape = (1,) * (self.nesting + 1 - len(shape)) + shape
            shape = (draws, *shape[1:])
        inner = tuple(site["fn"].event_shape) if event else ()
        whole = torch.as_tensor(value).detach().expand(shape + inner)
        return whole.cpu() if self.parallel else whole[None].cpu()

    def log_weight(self, laid: Mapping[str, _Laid]) -> tuple[list[str], np.ndarray]:
        """log p(x, z) - log q(z) over the plates that all sites share, in the order of the first."""
        counted = [s for s in laid.values() if s.kind != "deterministic"]
        shared = [p for p in counted[0].plates if p is not None and all(p in s.plates for s in counted)]
        total: Any = 0.0
        for site in counted:
            weight = torch.cat(site.weight)
            others = [1 + d for d, plate in enumerate(site.plates) if plate not in shared]
            weight = weight.sum(others) if others else weight
            left = [p for p in site.plates if p in shared]
            total = total + weight.permute(0, *(1 + left.index(p) for p in shared))
        return ["draw", *shared], total.double().numpy()


def _kind(site: Site) -> str | None:
    """What a node of a trace is: latent, observed, deterministic, or nothing that is kept."""
    if site.get("type") != "sample" or type(site["fn"]).__name__ == "_Subsample":
        return None
    if site["infer"].get("_deterministic"):
        return "deterministic"
    return "observed" if site["is_observed"] else "latent"


class _Names:
    """Dims and labels of what is laid out."""

    def __init__(self, dims: dict[str, Sequence[str]], coords: dict[str, Sequence[Any]], laid: Mapping[str, _Laid]):
        for site in dims:
            if site not in laid:
                raise HVAEError(f"dims names the site {site!r}, which neither program has; there are {sorted(laid)}")
        self.dims, self.coords, self.used = dims, coords, set[str]()

    def group(self, sites: Mapping[str, _Laid], part: str = "values") -> xr.Dataset:
        """Variables of one group; without what there is none of."""
        found = {}
        for name, site in sites.items():
            tensors = getattr(site, "values" if part == "observed" else part)
            if tensors:
                values = tensors[0][:1] if part == "observed" else torch.cat(tensors)
                found[name] = self._named(name, site, values, events=part != "log_prob")
        if part == "observed":
            return self.dataset({n: (d[1:], v[0]) for n, (d, v) in found.items()}, draws=False)
        return self.dataset(found)

    def _named(self, name: str, site: _Laid, values: Tensor, *, events: bool) -> tuple[list[str], np.ndarray]:
        batch, array = len(site.plates), values.numpy()
        # Batch dims that no plate declares: of size 1 they are there for alignment alone, others are kept as the site's own.
        dropped = tuple(1 + d for d, plate in enumerate(site.plates) if plate is None and array.shape[1 + d] == 1)
        named: list[str | None] = [plate for d, plate in enumerate(site.plates) if 1 + d not in dropped]
        array = array.squeeze(dropped)
        own = list(self.dims.get(name, ()))
        inner = values.ndim - 1 - batch if events else 0
        unnamed = named.count(None) + inner
        if events and own and len(own) != unnamed:
            raise HVAEError(f"dims of {name!r} must be {unnamed}, one for each dim that is no plate's; got {own}")
        given = iter(own or [f"{name}_dim_{i}" for i in range(unnamed)])
        return ["draw", *(next(given) if plate is None else plate for plate in [*named, *[None] * inner])], array

    def dataset(self, variables: Mapping[str, tuple[list[str], np.ndarray]], *, draws: bool = True) -> xr.Dataset:
        """With a chain of one in front, and labels along every dim."""
        made = {n: ((["chain", *d], v[None]) if draws else (d, v)) for n, (d, v) in variables.items()}
        found = xr.Dataset(made)
        labels = {}
        for dim, size in found.sizes.items():
            labels[dim] = list(self.coords.get(str(dim), range(size)))
            self.used.add(str(dim))
            if len(labels[dim]) != size:
                raise HVAEError(f"coords of {dim!r} must be {size} labels, got {len(labels[dim])}")
        return found.assign_coords(labels)

    def check_all_used(self) -> None:
        """Refuse labels of dims that nothing has."""
        if unused := sorted(set(self.coords) - self.used):
            raise HVAEError(f"coords names {unused}, which no site has; the dims are {sorted(self.used)}")
