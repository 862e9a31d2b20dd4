"""Portilla–Simoncelli textures with plenoptic."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pyro_hvae.errors import HVAEError
from pyro_hvae.synthesis.result import Synthesis

INNER_STEPS = 10
INSTALL = "Portilla–Simoncelli synthesis needs plenoptic, which is not installed: pip install 'pyro-hvae[textures]'."


def portilla_simoncelli(example: np.ndarray, *, steps: int = 30, seed: int = 0) -> Synthesis:
    """Image with the Portilla–Simoncelli statistics of `example` (side, side), values about 0 to 1.

    plenoptic's `Metamer` on `PortillaSimoncelli` (four scales, three for sides under 128), its Portilla–Simoncelli loss,
    its penalty on values outside [0, 1], and L-BFGS with a strong Wolfe search: `steps` outer steps of 10 iterations,
    from weak noise about the example's mean. The same seed gives the same image on the same machine. Raises `HVAEError`
    where plenoptic is not installed, or where the loss stops being finite.
    """
    po = plenoptic()
    target = torch.as_tensor(np.asarray(example, np.float32))[None, None]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # convergence is announced as a warning
        torch.manual_seed(seed)
        model = _statistics(example.shape)
        loss = po.loss.portilla_simoncelli_loss_factory(model, target)
        metamer = po.Metamer(target, model, loss_function=loss)
        metamer.setup(
            initial_image=target.mean() + 0.2 * (torch.rand_like(target) - 0.5),
            optimizer=torch.optim.LBFGS,
            optimizer_kwargs={
                "lr": 1,
                "max_iter": INNER_STEPS,
                "max_eval": INNER_STEPS,
                "history_size": 100,
                "line_search_fn": "strong_wolfe",
            },
        )
        try:
            metamer.synthesize(max_iter=steps, stop_criterion=1e-6, stop_iters_to_check=3)
        except ValueError as error:
            raise HVAEError(
                f"synthesis failed ({error}); is the example flat? Try another photograph or seed."
            ) from error
    return Synthesis(metamer.metamer.detach()[0, 0].numpy(), tuple(float(value) for value in metamer.losses))


def portilla_simoncelli_loss(example: np.ndarray, images: Sequence[np.ndarray]) -> list[float]:
    """plenoptic's own loss of each image against `example`: the distance of their statistics. All of one shape."""
    po = plenoptic()
    model = _statistics(example.shape)
    target, *others = (torch.as_tensor(np.array(i, np.float32))[None, None] for i in (example, *images))
    with torch.no_grad():
        loss = po.loss.portilla_simoncelli_loss_factory(model, target)
        reference = model(target)
        return [float(loss(reference, model(other))) for other in others]


def plenoptic() -> Any:
    """The package; `HVAEError` that says how to install it where it is not."""
    try:
        import plenoptic as package
    except ImportError as error:
        raise HVAEError(INSTALL) from error
    return package


def _statistics(shape: tuple[int, ...]) -> torch.nn.Module:
    """plenoptic's Portilla–Simoncelli model for images of one shape."""
    scales = 4 if min(shape) >= 128 else 3
    return plenoptic().models.PortillaSimoncelli(tuple(shape[-2:]), n_scales=scales).eval()
