"""Receptive fields of z1 by the guide's own gradient."""

from __future__ import annotations

from functools import partial

import torch
from pyro import poutine
from torch import Tensor
from torch.autograd.functional import jacobian

from pyro_hvae.programs import HVAE

BATCH = 256  # images differentiated at a time


def guide_gradient(vae: HVAE, x: Tensor) -> Tensor:
    """d E_q[z1_j | x] / d x_p, averaged over images.

    z1 enters by its mean given the layers above it, those by one draw an image, through which the derivative goes as well
    (pathwise, Kingma & Welling 2014): what a layer above passes on of the image is part of the field, and the average is
    unbiased. For Gaussian images it equals the linear regression of the posterior mean on the image (Stein's lemma).

    :param x: images ``(image, pixel)``.
    :returns: ``(z1_dim, pixel)``, z1 per pixel intensity.
    """

    def summed_mean(images: Tensor, shift: Tensor) -> Tensor:
        trace = poutine.trace(vae.guide).get_trace(images + shift)
        return trace.nodes["z1"]["fn"].mean.sum(0).flatten()

    with torch.enable_grad():
        total = x.new_zeros(vae.latents["z1"], x.shape[-1])
        for images in x.split(BATCH):
            total += jacobian(partial(summed_mean, images), x.new_zeros(x.shape[-1]))
    return total / len(x)
