"""One look for every figure: sizes of a journal page, a palette the colour-blind can tell apart, no global state."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_hvae.analysis.reading import patch_side
from pyro_hvae.storage.writing import FIGURE, write_figure

FULL, COLUMN = 7.2, 3.5  # inches: width of a page and of a column
# Okabe & Ito (2008)
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
GREY = "#777777"
LABEL, MANY = 16, 5  # letters of a label, at most; names from which on a matrix of them takes more room
SET_COLOURS = {"natural": GREEN, "texture": PURPLE}

RC: Any = {
    "font.family": "sans-serif",
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.0,
    "image.interpolation": "nearest",
    "figure.constrained_layout.use": True,
    "mathtext.default": "regular",
}
DPI = 300

Arguments = ParamSpec("Arguments")


class Picture(NamedTuple):
    """A figure and the caption printed under it."""

    figure: Figure
    caption: str

    def png(self) -> bytes:
        """The figure as PNG, with its caption as the description."""
        buffer = io.BytesIO()
        about = {"Source": FIGURE, "Description": self.caption}  # the source first: by it the file is recognised
        self.figure.savefig(buffer, format="png", dpi=DPI, metadata=about)
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """As a notebook shows it: the figure at the width of a column, its caption below."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=110)
        image = base64.b64encode(buffer.getvalue()).decode()
        caption = html.escape(self.caption)
        return f'<figure><img alt="{caption}" src="data:image/png;base64,{image}"><figcaption>{caption}</figcaption></figure>'

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write :meth:`png` to a file; with ``overwrite`` in place of an earlier figure, and of nothing else."""
        write_figure(path, self.png(), overwrite=overwrite)


def styled(plot: Callable[Arguments, Picture]) -> Callable[Arguments, Picture]:
    """Run a plotting function under :data:`RC`, leaving the user's own settings alone."""

    @wraps(plot)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Picture:
        with matplotlib.rc_context(RC):
            return plot(*args, **kwargs)

    return run


def figure(width: float, height: float) -> Figure:
    """An empty figure in inches, outside pyplot: nothing to close."""
    return Figure(figsize=(width, height), dpi=DPI)


def letters(axes: Iterable[Axes]) -> None:
    """Letter the panels a, b, c ..."""
    for axis, letter in zip(axes, "abcdefghijklmnopqrstuvwxyz", strict=False):
        axis.set_title(letter, loc="left", fontweight="bold", fontsize=9)


def short(names: Sequence[str], length: int = LABEL) -> list[str]:
    """Distinct labels of names: of a path its last part; of what is too long both ends, more of the second where that tells
    names apart, numbers where nothing does."""
    labels = [name.rstrip("/").rsplit("/", 1)[-1] for name in names]
    if len(set(labels)) < len(labels):
        labels = list(names)
    for tail in range(length // 3, length - 3, 2):
        cut = [label if len(label) <= length else f"{label[: length - 1 - tail]}…{label[-tail:]}" for label in labels]
        if len(set(cut)) == len(cut):
            return cut
    return [f"{label[: length - 4]}…{k}" for k, label in enumerate(labels, 1)]


def label_matrix(axis: Axes, names: Sequence[str], rows: bool = True) -> None:
    """Names along both axes of a matrix, upright below it so that they cannot run into each other; ``rows``: at its left."""
    ticks, labels = range(len(names)), short(names)
    axis.set(xticks=ticks, yticks=ticks, yticklabels=labels if rows else [])
    axis.set_xticklabels(labels, rotation=90)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=1.5, pad=1.5)


def mosaic(patches: np.ndarray, columns: int, top: float | None = None) -> np.ndarray:
    """Patches ``(patch, pixel)`` laid out in rows of ``columns`` with a pixel of NaN between them.

    Scaled to [-1, 1] symmetrically about zero: by ``top``, or each patch by its own largest magnitude.
    """
    side = patch_side(patches.shape[1])
    rows = -(-len(patches) // columns)
    scale = np.abs(patches).max(1, keepdims=True) if top is None else np.full((len(patches), 1), top)
    canvas = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1), np.nan)
    for index, patch in enumerate(patches / np.where(scale > 0, scale, 1.0)):
        y, x = (index // columns) * (side + 1), (index % columns) * (side + 1)
        canvas[y : y + side, x : x + side] = patch.reshape(side, side).clip(-1, 1)
    return canvas


def show(axis: Axes, canvas: np.ndarray, title: str = "", cmap: str = "gray") -> None:
    """Draw a mosaic without ticks; gaps stay white."""
    axis.imshow(canvas, cmap=cmap, vmin=-1, vmax=1)
    axis.set_axis_off()
    if title:
        axis.set_title(title)
