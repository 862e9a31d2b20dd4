"""A Gaussian likelihood made independent over its units, exactly, by an auxiliary variable that says as little as it can.

Given z2, z1 has the prior's independent units and the coupling likelihood exp(h'z1 - z1' G z1 / 2), G = A'A / sigma². For any
diagonal matrix D above G (D - G positive semidefinite) and R'R = D - G, add

    u | z1 ~ Normal(R z1, I).

z1's marginal is untouched, and given u its likelihood is exp((h + R'u)'z1 - z1' D z1 / 2): independent over units, so that z1
can be integrated out in closed form (Marnissi, Chouzenoux, Benazza-Benyahia & Pesquet 2018, Entropy 20:110; the "Gaussian
integral trick" of Zhang, Sutton, Storkey & Ghahramani 2012). u remembers z1, and that memory is all that it costs: the less D
exceeds G's own diagonal, the less. What z2 says of z1 must not be remembered either, else z2 could not move while u is held.
So D is the solution of

    minimise sum_i w_i (D_ii - G_ii)   such that   D - G is positive semidefinite,

with w_i the variance of z1_i given the image alone: nats of information, to first order. Weights that do not know that a
collapsed unit is pinned by z2 make the sampler a hundred times slower on a pair whose collapsed units have scales of 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SWEEPS = 500
TOLERANCE = 1e-5
MARGIN = 1e-6  # relative to the information of the image and the prior: keeps D - G positive where rounding would not


@dataclass(frozen=True)
class Decoupling:
    """D and R for one A and sigma."""

    precision: Tensor
    """D, ``(dim,)``"""
    root: Tensor
    """R, symmetric, ``(dim, dim)``"""
    to_units: Tensor
    """A / sigma², ``(pixel, dim)``: ``h = (x - c) @ to_units``"""
    memory: float
    """Largest autocorrelation, over directions of z1, from one draw of z1 to the next by way of u, at the prior's variance."""

    @staticmethod
    def of(A: Tensor, sigma: Tensor, prior_variance: Tensor) -> Decoupling:
        """:param A: ``(pixel, dim)``. :param prior_variance: of the units of z1, layers above averaged out, ``(dim,)``."""
        A64, variance = (t.detach().cpu().double().numpy() for t in (A, prior_variance))
        sigma2 = float(sigma) ** 2
        G = A64.T @ A64 / sigma2
        g = np.diagonal(G)
        known = g + 1 / variance
        excess = least_excess(G - np.diag(g), 1 / known)
        scale = np.sqrt(known)
        scaled = (np.diag(excess) - (G - np.diag(g))) / scale[:, None] / scale
        excess = excess + (max(0.0, -float(np.linalg.eigvalsh(scaled)[0])) + MARGIN) * known
        values, vectors = np.linalg.eigh(np.diag(g + excess) - G)
        root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        total = np.sqrt(known + excess)
        memory = float(np.linalg.eigvalsh((root @ root) / total[:, None] / total)[-1])
        return Decoupling(
            torch.as_tensor(g + excess).to(A), torch.as_tensor(root).to(A), (A / sigma2).detach(), min(memory, 1.0)
        )


def least_excess(coupling: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The diagonal E that minimises ``weights @ E`` with ``diag(E) - coupling`` positive semidefinite; ``(dim,)``.

    The dual of the semidefinite programme of a largest cut, solved by coordinate descent on the rows of its factor (the mixing
    method: Wang, Chang & Kolter 2017, arXiv 1706.00476). Its answer is feasible up to :data:`TOLERANCE`.

    :param coupling: symmetric with a zero diagonal ``(dim, dim)``.
    :param weights: positive ``(dim,)``.
    """
    dim = len(coupling)
    norms = np.sqrt(weights)
    # A rank beyond sqrt(2 dim) has no local optima but the global one.
    V = np.random.default_rng(0).normal(size=(dim, int(np.ceil(np.sqrt(2 * dim))) + 1))
    V *= (norms / np.linalg.norm(V, axis=1))[:, None]
    for _ in range(SWEEPS):
        before = V.copy()
        for i in range(dim):
            pull = coupling[i] @ V
            size = np.linalg.norm(pull)
            if size > 0:
                V[i] = pull * (norms[i] / size)
        if np.abs((V - before) / norms[:, None]).max() < TOLERANCE:
            break
    return np.linalg.norm(coupling @ V, axis=1) / norms
