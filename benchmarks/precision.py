"""What a coarser precision of matrix products does to the bound: float32, tf32 (on a GPU) and bfloat16.

    python benchmarks/precision.py [--steps 2000] [--device cuda]

TDVAE20 from the linear-regime start on embedded patches, the same seeds throughout. Printed for each precision: the held-out
ELBO after training, in the precision of the training as :func:`pyro_hvae.fit` reports it and in float32; and for the pair
trained in float32 the change of the bound when the same draws are evaluated in the coarser precision.
"""

from __future__ import annotations

import argparse

import pyro
import torch

import pyro_hvae as hvae
from pyro_hvae.published import Training
from pyro_hvae.stimuli import natural_patches
from pyro_hvae.training.training_step import StepFunction


def bound(vae: hvae.HVAE, x: torch.Tensor, precision: str) -> torch.Tensor:
    """The ELBO of each image in double precision of the sum, always with the same draws."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    function = StepFunction(vae, hvae.ELBO(), [], [], Training(precision=precision))
    with torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(0)
        found = function.evaluate([], x).elbo
    torch.set_float32_matmul_precision("highest")
    return found.double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    data = natural_patches(20, train=50_000, test=2_000)
    x = torch.from_numpy(data.test["x"].values).to(arguments.device)
    print(
        "| precision | held-out ELBO, own precision | in float32 | same pair and draws: change of the bound, nats an image |"
    )
    print("|---|--:|--:|--:|")
    reference: hvae.HVAE | None = None
    for precision in ("float32", "bfloat16") if arguments.device == "cpu" else ("float32", "tf32", "bfloat16"):
        vae = hvae.build("TDVAE20", start="linear_regime", seed=0)
        hvae.fit(vae, data, steps=arguments.steps, batch=200, learning_rate=f"0:5e-4,{arguments.steps}:5e-5", beta={"z2": 1},
                 clip=300.0, precision=precision, compile=True, device=arguments.device, evaluate_every=10**9,
                 progress=False)  # fmt: skip
        reference = reference or vae
        change = bound(reference, x, precision) - bound(reference, x, "float32")
        own, exact = (float(bound(vae, x, p).mean()) for p in (precision, "float32"))
        print(
            f"| {precision} | {own:.2f} | {exact:.2f} | mean {change.mean():+.4f}, sd {change.std():.4f} |", flush=True
        )


if __name__ == "__main__":
    main()
