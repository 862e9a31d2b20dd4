"""The yardsticks of the speed benchmarks: the same model trained the way others would.

A peer has a ``name`` and ``step(x)``, one full update (forward, backward, Adam) on images ``x (image, pixel)``. Each starts
from a copy of the parameters of the pair it is given, which it leaves alone.

- :class:`HandWritten`: a two-layer TDVAE in plain PyTorch, without Pyro or pyro_hvae: the ELBO with analytic KLs, or the
  importance-weighted bound in three degrees of sharing work between particles; eager, or its loss compiled.
- :class:`PyroSVI`: Pyro's own loop, with any of its objectives.
- :class:`PythaeLoop`: the trainer of pythae (Chadebec et al. 2022) on its VAE, one layer, Normal; where pythae is installed
  (``pip install --no-deps pythae`` and ``pip install pydantic tqdm``: what else it asks for is here or in Python itself).

``tests/test_peers.py`` holds every peer against the objectives of pyro_hvae: values and gradients of one step are the same.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import tempfile
from collections.abc import Callable
from typing import Protocol

import pyro
import pyro.infer
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs import HVAE, LinearModel, MarkovModel, MeanFieldGuide, TopDownGuide

SHARING = ("none", "bottom_up", "split")
PUBLISHED_RATE = 1e-4


class Peer(Protocol):
    """What the benchmark times."""

    name: str

    def step(self, x: Tensor) -> object:
        """One update on ``x (image, pixel)``."""


class TDVAE(nn.Module):
    """z2 → z1 → x with a top-down guide (Csikor et al. 2022), Laplace z1, Normal z2, written out.

    :param vae: the pair whose parameters are copied.
    """

    def __init__(self, vae: HVAE):
        super().__init__()
        model, guide = vae.model, vae.guide
        if not (isinstance(model, MarkovModel) and isinstance(guide, TopDownGuide)) or model.families != (
            "laplace",
            "normal",
        ):
            raise HVAEError(
                f"the hand-written peer is a MarkovModel of Laplace z1 and Normal z2 with a TopDownGuide, not "
                f"{type(model).__name__} with {type(guide).__name__}"
            )
        if model.config["learn_noise"]:
            raise HVAEError("the hand-written peer has a fixed observation noise; build the pair without learn_noise")
        p, head = model.conditionals[0]
        self.a = softplus_network(guide.bottom_up[0].layers)  # x → L_x
        self.b = softplus_network(guide.bottom_up[1].layers)  # L_x → features of q(z2 | x)
        self.q2 = linear(guide.heads[1])
        self.c = softplus_network(guide.top_down[0].layers)  # z2 → L_z
        self.d_first = linear(guide.joint[0].first)  # [L_x, L_z] → features of q(z1 | x, z2)
        self.d_rest = softplus_network(guide.joint[0].rest.layers)
        self.q1 = linear(guide.heads[0])
        self.p = softplus_network(p.layers)  # z2 → features of p(z1 | z2)
        self.p1 = linear(head)
        self.decoder = linear(model.to_image)
        self.sigma = float(model.sigma)
        reference = model.to_image.weight
        self.register_buffer("beta1", reference.new_ones(()))
        self.register_buffer("beta2", reference.new_ones(()))

    def elbo(self, x: Tensor) -> Tensor:
        """One draw an image, both KLs in closed form; ``(image,)``."""
        L_x = self.a(x)
        m2, s2 = location_and_scale(self.q2(self.b(L_x)))
        z2 = m2 + s2 * torch.randn_like(m2)
        features = F.softplus(self.d_first(torch.cat([L_x, self.c(z2)], -1)))
        m1, s1 = location_and_scale(self.q1(self.d_rest(features)))
        z1 = m1 + s1 * laplace_noise(m1)
        mp, sp = location_and_scale(self.p1(self.p(z2)))
        kl1 = laplace_kl(m1, s1, mp, sp).sum(-1)
        kl2 = (0.5 * (s2.square() + m2.square() - 1) - s2.log()).sum(-1)
        return self.log_likelihood(x, z1) - self.beta1 * kl1 - self.beta2 * kl2

    def importance_weighted(self, x: Tensor, particles: int, sharing: str) -> Tensor:
        """log (1/K) Σ w of each image; ``(image,)``. ``sharing`` changes the work, not the numbers.

        - ``none``: every image goes through all networks K times.
        - ``bottom_up``: L_x and q(z2 | x) once an image.
        - ``split``: and the part of the first layer of MLP.d that reads L_x.
        """
        images = x.shape[0]
        if sharing == "none":
            x = x.repeat(particles, 1)
        L_x = self.a(x)
        m2, s2 = location_and_scale(self.q2(self.b(L_x)))
        shape = (particles, images, -1)
        if sharing == "none":
            m2, s2 = m2.view(shape), s2.view(shape)
        z2 = m2 + s2 * torch.randn(particles, images, m2.shape[-1], dtype=x.dtype, device=x.device)
        L_z = self.c(z2)
        if sharing == "split":
            from_x, from_z = self.d_first.weight.split([L_x.shape[-1], L_z.shape[-1]], -1)
            first = F.linear(L_x, from_x, self.d_first.bias) + F.linear(L_z, from_z)
        else:
            spread = L_x.view(shape) if sharing == "none" else L_x.expand(particles, -1, -1)
            first = self.d_first(torch.cat([spread, L_z], -1))
        m1, s1 = location_and_scale(self.q1(self.d_rest(F.softplus(first))))
        z1 = m1 + s1 * laplace_noise(m1)
        mp, sp = location_and_scale(self.p1(self.p(z2)))
        x = x.view(shape) if sharing == "none" else x
        log_w = (
            self.log_likelihood(x, z1)
            + self.beta1 * (laplace_log_density(z1, mp, sp) - laplace_log_density(z1, m1, s1)).sum(-1)
            + self.beta2 * (0.5 * (((z2 - m2) / s2).square() - z2.square()) + s2.log()).sum(-1)
        )
        return torch.logsumexp(log_w, 0) - math.log(particles)

    def log_likelihood(self, x: Tensor, z1: Tensor) -> Tensor:
        """log Normal(x; A z1 + c, sigma² I)."""
        constant = x.shape[-1] * (math.log(self.sigma) + 0.5 * math.log(2 * math.pi))
        return -0.5 * ((x - self.decoder(z1)) / self.sigma).square().sum(-1) - constant


class HandWritten:
    """:class:`TDVAE` in a training step of plain PyTorch, with fused Adam.

    :param particles: K of the importance-weighted bound; None for the ELBO.
    :param sharing: what particles share, see :meth:`TDVAE.importance_weighted`.
    :param compiled: compile the loss with :func:`torch.compile`; a string is its mode (``"reduce-overhead"`` replays CUDA
        graphs).
    """

    def __init__(
        self,
        vae: HVAE,
        *,
        particles: int | None = None,
        sharing: str = "split",
        compiled: bool | str = False,
        learning_rate: float = PUBLISHED_RATE,
    ):
        if sharing not in SHARING:
            raise unknown("sharing", sharing, SHARING)
        self.module, self.particles, self.sharing = TDVAE(vae), particles, sharing
        self.name = "hand-written" if particles is None else f"hand-written, K={particles}, shared: {sharing}"
        self.loss: Callable[[Tensor], Tensor] = self._loss
        if compiled:
            mode = None if compiled is True else compiled
            self.loss = torch.compile(self._loss, fullgraph=True, dynamic=False, mode=mode)
            self.name += ", compiled" if mode is None else f", compiled ({mode})"
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=learning_rate, fused=True)

    def _loss(self, x: Tensor) -> Tensor:
        if self.particles is None:
            return -self.module.elbo(x).mean()
        return -self.module.importance_weighted(x, self.particles, self.sharing).mean()

    def step(self, x: Tensor) -> Tensor:
        """One update; the loss, not fetched from the device."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class PyroSVI:
    """:class:`pyro.infer.SVI` with :class:`pyro.optim.Adam` on a copy of the pair, as Pyro's tutorials write it.

    :param objective: ``Trace_ELBO``, ``TraceMeanField_ELBO``, ``RenyiELBO``, or an objective of pyro_hvae.
    """

    def __init__(self, vae: HVAE, objective: pyro.infer.ELBO, *, learning_rate: float = PUBLISHED_RATE):
        self.vae = copy.deepcopy(vae)
        particles = f"({objective.num_particles})" if objective.num_particles > 1 else ""
        self.name = f"Pyro SVI, {type(objective).__name__}{particles}"
        self.svi = pyro.infer.SVI(self.vae.model, self.vae.guide, pyro.optim.Adam({"lr": learning_rate}), objective)

    def step(self, x: Tensor) -> float:
        """One update; the loss, summed over images."""
        return self.svi.step(x)


def pythae_missing() -> str | None:
    """Why :class:`PythaeLoop` cannot be run here, or None."""
    for package in ("pythae", "pydantic", "tqdm"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed (pip install --no-deps pythae; pip install pydantic tqdm)"
    return None


class PythaeLoop:
    """pythae's ``BaseTrainer`` on its ``VAE``: Normal z1 with standard prior, and an observation noise of 1.

    :param vae: ``LinearModel(families=("normal",), noise=1.0)`` with a ``MeanFieldGuide``; its layers are copied.
    :raises HVAEError: for another pair, which pythae has no counterpart of; and where pythae is missing.

    A step is ``BaseTrainer.train_step`` on a dataset of one batch, so that the cost of its data loader, which collates image by
    image, is part of it as in its training. The progress bar is not.
    """

    name = "pythae, VAE"

    def __init__(self, vae: HVAE, *, learning_rate: float = PUBLISHED_RATE):
        if (reason := pythae_missing()) is not None:
            raise HVAEError(reason)
        model, guide = vae.model, vae.guide
        if not (isinstance(model, LinearModel) and isinstance(guide, MeanFieldGuide)) or model.families != ("normal",):
            raise HVAEError("pythae's VAE is a LinearModel of Normal z1 with a MeanFieldGuide")
        if model.config["noise"] != 1.0 or model.config["learn_noise"]:
            raise HVAEError(f"pythae's VAE has observation noise 1, not {model.config['noise']}")
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
        from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback

        class Encoder(BaseEncoder):
            def __init__(self) -> None:
                super().__init__()
                trunk, head = guide.conditionals[0]
                self.trunk, self.head = softplus_network(trunk.layers), linear(head)

            def forward(self, x: Tensor) -> ModelOutput:
                location, log_variance = self.head(self.trunk(x)).chunk(2, -1)
                return ModelOutput(embedding=location, log_covariance=log_variance)

        class Decoder(BaseDecoder):
            def __init__(self) -> None:
                super().__init__()
                self.linear = linear(model.to_image)

            def forward(self, z: Tensor) -> ModelOutput:
                return ModelOutput(reconstruction=self.linear(z))

        config = VAEConfig(input_dim=(model.pixels,), latent_dim=model.dims[0], reconstruction_loss="mse")
        self.module = VAE(config, encoder=Encoder(), decoder=Decoder())
        self._directory = tempfile.TemporaryDirectory()  # it insists on one
        device = model.to_image.weight.device
        settings = BaseTrainerConfig(
            output_dir=self._directory.name,
            learning_rate=learning_rate,
            no_cuda=device.type == "cpu",
            keep_best_on_train=True,
        )
        probe = self._dataset(torch.zeros(2, model.pixels))
        self.trainer = BaseTrainer(self.module, probe, training_config=settings)
        with torch.random.fork_rng():
            self.trainer.prepare_training()
        self.trainer.callback_handler = CallbackHandler([TrainingCallback()], model=self.module)

    @staticmethod
    def _dataset(x: Tensor) -> object:
        from pythae.data.datasets import BaseDataset

        return BaseDataset(x, torch.zeros(len(x)))

    def step(self, x: Tensor) -> float:
        """One update; the loss, a mean over images without the constant of the likelihood."""
        self.trainer.training_config.per_device_train_batch_size = len(x)
        self.trainer.train_loader = self.trainer.get_train_dataloader(self._dataset(x))
        return float(self.trainer.train_step(epoch=1))


# -- the pieces


def linear(layer: nn.Linear) -> nn.Linear:
    """A plain copy of a linear layer, or of one derived from it."""
    made = nn.Linear(layer.in_features, layer.out_features).to(layer.weight)
    made.load_state_dict(layer.state_dict())
    return made


def softplus_network(layers: nn.ModuleList) -> nn.Sequential:
    """A plain copy of a network with a softplus after every layer."""
    return nn.Sequential(*(module for layer in layers for module in (linear(layer), nn.Softplus())))


def location_and_scale(features: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of a head's output; the scale as in pyro_hvae, exp(v / 2) with v held within ±20."""
    location, v = features.chunk(2, -1)
    return location, torch.exp(0.5 * v.clamp(-20, 20))


def laplace_noise(like: Tensor) -> Tensor:
    """Laplace(0, 1), drawn as :class:`torch.distributions.Laplace` does."""
    u = torch.empty_like(like).uniform_(torch.finfo(like.dtype).eps - 1, 1)
    return -u.sign() * torch.log1p(-u.abs())


def laplace_log_density(z: Tensor, location: Tensor, scale: Tensor) -> Tensor:
    return -torch.log(2 * scale) - (z - location).abs() / scale


def laplace_kl(m: Tensor, s: Tensor, mp: Tensor, sp: Tensor) -> Tensor:
    """KL[Laplace(m, s) ‖ Laplace(mp, sp)]."""
    distance = (m - mp).abs()
    return torch.log(sp / s) + distance / sp + s / sp * torch.exp(-distance / s) - 1
