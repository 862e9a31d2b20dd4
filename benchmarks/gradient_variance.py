"""How noisy is each gradient estimator? Writes the tables of docs/gradients.md.

    python benchmarks/gradient_variance.py            # about 15 minutes on one core
    python benchmarks/gradient_variance.py --draws 20 --train-steps 20

The images, the parameters and the batch are fixed; only the draws of z change from one gradient to the next. For the guide's
and the model's parameters apart, with g the gradient of the batch mean of the bound:

- signal to noise ‖E g‖ / sqrt(tr Cov g), with ‖E g‖² corrected for the noise of the mean of the draws;
- variance tr Cov g relative to the first estimator of the table.

Images are white Laplace sources in 314 of 400 dimensions, as after whitening; parameters those of the linear-regime start,
trained for a while with the exact reconstruction term.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_hvae.bounds.objectives import ELBO, Bound, ImportanceWeightedELBO
from pyro_hvae.programs import HVAE, MarkovModel, TopDownGuide
from pyro_hvae.published import build
from pyro_hvae.starts import start_in_linear_regime


def whitened(images: int, pixels: int, kept: int, seed: int) -> Tensor:
    """Images of unit variance in ``kept`` of ``pixels`` dimensions, ``(image, pixel)``; one basis whatever the seed."""
    basis, _ = torch.linalg.qr(torch.randn(pixels, pixels, generator=torch.Generator().manual_seed(0)))
    u = torch.rand(images, kept, generator=torch.Generator().manual_seed(seed)) - 0.5
    sources = -u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.4999999)) / 2**0.5
    return sources @ basis[:kept]


def train(vae: HVAE, steps: int, kept: int, batch: int = 128) -> None:
    """Adam on fresh images."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    objective = ELBO(gradient="rao_blackwell")
    torch.manual_seed(0)
    for step in range(steps):
        optimizer.zero_grad()
        x = whitened(batch, vae.pixels, kept, seed=step + 1)
        (-objective.evaluate(vae.model, vae.guide, x).bound.mean()).backward()
        optimizer.step()


@dataclass(frozen=True)
class Noise:
    """Moments of a gradient over draws."""

    signal: float
    variance: float

    @property
    def ratio(self) -> float:
        return self.signal / self.variance**0.5 if self.variance > 0 else float("inf")


def measure(vae: HVAE, objective: Bound, x: Tensor, draws: int) -> dict[str, Noise]:
    """Noise of the gradient for model and guide."""
    parts = {"model": list(vae.model.parameters()), "guide": list(vae.guide.parameters())}
    total = {k: torch.zeros(sum(p.numel() for p in v), dtype=torch.float64) for k, v in parts.items()}
    square = dict.fromkeys(parts, 0.0)
    torch.manual_seed(0)
    for _ in range(draws):
        vae.zero_grad()
        objective.evaluate(vae.model, vae.guide, x).bound.mean().backward()
        for name, parameters in parts.items():
            g = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).double()
            total[name] += g
            square[name] += float(g.square().sum())
    noise = {}
    for name in parts:
        mean_square = float((total[name] / draws).square().sum())
        variance = max(square[name] / draws - mean_square, 0.0) * draws / (draws - 1)
        if variance < 1e-10 * mean_square:  # rounding of a gradient without noise
            variance = 0.0
        noise[name] = Noise(max(mean_square - variance / draws, 0.0) ** 0.5, variance)
    return noise


def table(title: str, vae: HVAE, objectives: list[Bound], x: Tensor, draws: int) -> None:
    print(f"\n### {title}\n")
    print("| objective | K | gradient | SNR guide | SNR model | variance guide | variance model |")
    print("|---|--:|---|--:|--:|--:|--:|", flush=True)
    first: dict[str, Noise] | None = None
    for objective in objectives:
        noise = measure(vae, objective, x, draws)
        first = first or noise
        kind = "ELBO" if objective.alpha == 1 else "IW"
        relative = [f"{noise[p].variance / first[p].variance:.3g}" for p in ("guide", "model")]
        ratios = ["∞" if noise[p].variance == 0 else f"{noise[p].ratio:.3g}" for p in ("guide", "model")]
        cells = [kind, str(objective.num_particles), objective.gradient, *ratios, *relative]
        print("| " + " | ".join(cells) + " |", flush=True)


def iw(particles: tuple[int, ...]) -> list[Bound]:
    return [ImportanceWeightedELBO(k, gradient=g) for g in ("standard", "dreg") for k in particles]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="gradients a row")
    parser.add_argument("--train-steps", type=int, default=300, help="steps of training from the linear-regime start")
    parser.add_argument("--images", type=int, default=16, help="images in the fixed batch")
    arguments = parser.parse_args()
    pyro.enable_validation(False)
    note = f"{arguments.images} images, {arguments.draws} draws, {arguments.train_steps} training steps"

    torch.manual_seed(0)
    hidden = dict(hidden_x=((32,), (16,)), hidden_z=((16,),), hidden_joint=((32,),))
    small = HVAE(MarkovModel(4, (4, 2), hidden=((16,),)), TopDownGuide(4, (4, 2), **hidden))
    train(start_in_linear_regime(small), 10 * arguments.train_steps, kept=4)
    x = whitened(arguments.images, 4, 4, seed=-1)
    objectives = iw((1, 4, 16, 64, 256))
    title = f"A small TDVAE (4 pixels, z1 4, z2 2): importance-weighted; {note}, ten times as many draws and steps"
    table(title, small, objectives, x, 10 * arguments.draws)

    elbos: list[Bound] = [ELBO(gradient=g) for g in ("standard", "stl", "rao_blackwell")]
    elbos += [ELBO(10, gradient=g) for g in ("standard", "stl", "rao_blackwell")]
    for name in ("LinearVAE20", "TDVAE20"):
        vae = build(name, start="linear_regime", seed=0)
        train(vae, arguments.train_steps, kept=314)
        x = whitened(arguments.images, 400, 314, seed=-1)
        table(f"{name}: the ELBO; {note}", vae, elbos, x, arguments.draws)
        table(f"{name}: importance-weighted; {note}", vae, iw((1, 4, 10, 50)), x, arguments.draws)


if __name__ == "__main__":
    main()
