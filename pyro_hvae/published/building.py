"""A published system by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs.contrast import ContrastModel
from pyro_hvae.programs.images import flattened
from pyro_hvae.programs.pair import GUIDES, HVAE, MODELS, construct, make_guide
from pyro_hvae.programs.widths import published_hidden
from pyro_hvae.published.presets import preset
from pyro_hvae.published.recipes import recipe as make_recipe
from pyro_hvae.starts import check_starts
from pyro_hvae.starts import start as apply_starts


@checked
def build(
    name: str,
    *,
    guide: str | None = None,
    guide_options: Mapping[str, Any] | None = None,
    pixels: int | None = None,
    dim_z1: int | None = None,
    dim_z2: int | None = None,
    families: Sequence[str] | None = None,
    noise: float | None = None,
    learn_noise: bool = False,
    recipe: str = "published",
    start: str | Sequence[str] | None = None,
    data: Any = None,
    seed: int | None = None,
) -> HVAE:
    """A published system by name, initialised afresh.

    :param name: a key of :data:`PRESETS`; ``pyro-hvae presets`` prints them.
    :param guide: another recognition model than the published one, with published hidden units.
    :param guide_options: other arguments of the guide's class, such as ``{"top": "full"}`` of the ladder guide.
    :param pixels, dim_z1, dim_z2, noise: other sizes than the published ones ([C22] varied dim z2 from 5 to 140).
    :param families: site family of each layer, z1's first: ``("normal", "normal")`` is the "n" variant of a system.
    :param learn_noise: learn the observation noise, which starts at ``noise``.
    :param recipe: ``"published"`` or ``"fast"`` (:mod:`~pyro_hvae.published.recipes`): how the pair starts, and how
        :func:`~pyro_hvae.fit` trains it where nothing else is said.
    :param start: another start than the recipe's: ``"default"`` (PyTorch's initialisation), ``"linear_regime"``
        (:func:`~pyro_hvae.starts.linear_regime.start_in_linear_regime`), ``"ica"``
        (:func:`~pyro_hvae.starts.ica.start_from_ica`) or ``("ica", "energies")``: from each training is many times faster than
        from the one before.
    :param data: training patches (:class:`~pyro_hvae.stimuli.PatchData`) or images ``(image, pixel)``, for ``"ica"`` and
        ``"energies"``.
    :param seed: seed of the initial weights; None draws from PyTorch's global state.
    """
    p = preset(name)
    dims = list(p.dims)
    for l, dim in enumerate((dim_z1, dim_z2)):
        if dim is not None:
            if l >= len(dims):
                raise HVAEError(f"{name} has no layer z{l + 1}, so dim_z{l + 1}={dim} cannot be set")
            dims[l] = dim
    size = p.pixels if pixels is None else pixels
    common: dict[str, Any] = dict(
        pixels=size, dims=tuple(dims), families=p.families if families is None else tuple(families)
    )
    hidden = published_hidden(p.pixels, len(dims))
    guide = p.guide if guide is None else guide
    if guide not in GUIDES:
        raise unknown("guide", guide, GUIDES)
    starts = check_starts(make_recipe(recipe, p, guide).start if start is None else start)
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        noise_arguments = dict(noise=p.noise if noise is None else noise, learn_noise=learn_noise)
        model = construct(MODELS[p.model], common | hidden[p.model] | noise_arguments, "model")
        options = hidden[guide] | dict(guide_options or {})
        if p.contrast:
            model = ContrastModel(model)
            options = {"dependent": p.dependent or guide != p.guide} | options
        recognition = make_guide(guide, model, **options)
        vae = HVAE(model, recognition, preset=p.name)
        vae.recipe = recipe
        return apply_starts(vae, starts, _images(data))


def _images(data: Any) -> torch.Tensor | None:
    """Training images of what :func:`build` was given as data."""
    if data is None:
        return None
    return flattened(getattr(data, "train", data), None)
