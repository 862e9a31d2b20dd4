"""Softplus networks. Nothing here knows what a latent variable is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected network with a softplus after every layer, the last included.

    :param in_features: size of the last dimension of the input.
    :param hidden: units of each layer; an empty sequence makes the identity.

    Shape: ``(..., in_features) -> (..., out_features)``.
    """

    def __init__(self, in_features: int, hidden: Sequence[int]):
        super().__init__()
        sizes = [in_features, *hidden]
        self.layers = nn.ModuleList(nn.Linear(m, n) for m, n in pairwise(sizes))
        self.out_features = sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.softplus(layer(x))
        return x


class JointMLP(nn.Module):
    """An :class:`MLP` over the concatenation of two inputs whose batch shapes broadcast against each other.

    Where one of them is shared by K particles, the first layer's product is taken input by input and added, so that it is
    multiplied once and not K times; the function and its parameters are those of the concatenation.

    :param in_features: sizes of the two inputs.
    :param hidden: units of each layer, at least one.
    """

    def __init__(self, in_features: tuple[int, int], hidden: Sequence[int]):
        super().__init__()
        self.in_features = tuple(in_features)
        self.first = nn.Linear(sum(in_features), hidden[0])
        self.rest = MLP(hidden[0], hidden[1:])
        self.out_features = self.rest.out_features

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        if left.shape[:-1] == right.shape[:-1]:  # nothing is shared: one product is cheaper, its gradient above all
            return self.rest(F.softplus(self.first(torch.cat([left, right], -1))))
        w_left, w_right = self.first.weight.split(self.in_features, dim=-1)
        return self.rest(F.softplus(F.linear(left, w_left, self.first.bias) + F.linear(right, w_right)))
