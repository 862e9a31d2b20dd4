"""Objectives and gradient estimators by name; without torch, for the command line."""

from __future__ import annotations

from typing import Literal, get_args

ObjectiveName = Literal["elbo", "importance_weighted", "renyi"]
GradientName = Literal["standard", "stl", "dreg", "rao_blackwell", "rao_blackwell_stl", "rao_blackwell_dreg"]

OBJECTIVES: tuple[str, ...] = get_args(ObjectiveName)
GRADIENTS: tuple[str, ...] = get_args(GradientName)
