"""Start of a pair with contrast as a cause: c at the contrast of the images, the layers at what is left without it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.contrast import ContrastGuide, ContrastModel, log_contrast
from pyro_hvae.programs.pair import HVAE
from pyro_hvae.programs.program import nodes
from pyro_hvae.starts.ica import fit_last_layer, z1_head

FITTED = 10_000  # images that the guide's last layer is fitted to where it is not given c
LOG_C_VARIANCE = -4.0  # v of q(c | x)


@torch.no_grad()
def start_with_contrast(vae: HVAE, x: Tensor | None, start_base: Callable[[HVAE, Tensor | None], HVAE]) -> HVAE:
    """Start a :class:`ContrastModel` and its :class:`ContrastGuide`; in place, and returned.

    q(c | x) starts at the contrast of x over its geometric mean in the images. The base pair is started by ``start_base`` on
    images of that contrast divided out. A guide that is not given c then has its last layer fitted to what it would say if it
    read those images; one that reads log c beside the image starts blind to it.

    :param x: images ``(image, pixel)``, or None for starts that need none: images of unit variance are then expected.
    :raises HVAEError: for another guide.
    """
    model, guide = vae.model, vae.guide
    if not (isinstance(model, ContrastModel) and isinstance(guide, ContrastGuide)):
        raise HVAEError(f"a ContrastModel starts together with a ContrastGuide, got {type(guide).__name__}")
    guide.head.set_linear(torch.zeros_like(guide.head.location_weight), torch.zeros(1), LOG_C_VARIANCE)
    even, b = None, model.base.to_image.bias
    if x is not None:
        x = x.to(model.A)
        b = x.mean(0)
        log_c = log_contrast(x - b)
        guide.head.location_bias.fill_(-log_c.mean())
        even = (x - b) * torch.exp(log_c.mean() - log_c) + b
    base = guide.base
    plain = type(base)(**base.config | {"pixels": model.pixels}) if guide.widened else base
    started = start_base(HVAE(model.base, plain.to(model.A)), even)
    vae.starts.extend(started.starts)
    if x is not None:
        model.base.to_image.bias.copy_(b)  # not the mean of images that all have one contrast
    if guide.widened:
        _widen(plain, base)
    elif not guide.dependent and x is not None and even is not None:
        head, features = z1_head(base, x[:FITTED])
        v = head.v_bias.clone()
        wanted = nodes(poutine.trace(base).get_trace(even[:FITTED]))["z1"]["fn"].mean
        fit_last_layer(head, features, wanted, v)
    vae.starts.append({"start": "contrast"} | ({} if x is None else {"images": len(x)}))
    return vae


def _widen(plain: nn.Module, wide: nn.Module) -> None:
    """Parameters of a guide of the image for one of the image and one number more, which nothing is read from."""
    for (name, source), target in zip(plain.named_parameters(), wide.parameters(), strict=True):
        if source.shape == target.shape:
            target.copy_(source)
        else:
            if source.dim() != 2 or target.shape[1] != source.shape[1] + 1:
                raise HVAEError(f"{name} of the guide does not read the image alone")
            target.zero_()
            target[:, :-1] = source
