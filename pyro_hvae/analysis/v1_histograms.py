"""How properties of neurons are distributed in macaque V1: counts of published histograms, as facts.

The counts were not read off the papers by us. They are those that public benchmark code has typed in from the papers'
histograms (Marques, Schrimpf & DiCarlo 2021, bioRxiv 2021.03.01.433495; the packaging scripts of Brain-Score), and are kept
here as numbers. That code names papers and subgroups of cells, not figures, so no figure number is given here either. What
is in no such source (contrast response, plaids) is left out, and so is Ringach et al. (2002), whose cells come as a data
file with no licence that we know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DE_VALOIS_A = "De Valois, Yund & Hepler 1982, Vision Research 22, 531-544"
DE_VALOIS_B = "De Valois, Albrecht & Thorell 1982, Vision Research 22, 545-559"
SCHILLER = "Schiller, Finlay & Volman 1976, J. Neurophysiology 39, 1334-1351"
CAVANAUGH = "Cavanaugh, Bair & Movshon 2002, J. Neurophysiology 88, 2530-2546"

_OCTAVES = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# Simple cells of the fovea, complex of the fovea, simple of the parafovea, complex of the parafovea.
_PEAKS = (
    (0, 4, 4, 8, 25, 33, 26, 28, 12, 5, 2, 1),
    (0, 0, 0, 9, 9, 7, 10, 23, 12, 8, 3, 3),
    (2, 4, 10, 12, 18, 7, 18, 3, 4, 0, 0, 0),
    (1, 2, 1, 2, 5, 15, 13, 9, 3, 2, 0, 0),
)
# Simple, complex.
_BANDWIDTHS = ((0, 0, 0, 6, 5, 10, 7, 2, 0, 0), (0, 3, 4, 10, 17, 6, 2, 1, 0, 0))


@dataclass(frozen=True)
class Histogram:
    """Cells by a property. Values beyond the outermost edges belong to the outermost bins."""

    name: str
    title: str
    unit: str
    source: str
    cells: str
    """Which cells of the paper."""
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    scaled: bool = False
    """Whether values hang on the declared pixels per degree."""

    @property
    def n(self) -> int:
        """Number of cells."""
        return sum(self.counts)

    def of(self, values: np.ndarray) -> np.ndarray:
        """Shares of finite ``values`` by bin, which sum to 1."""
        inside = np.clip(values[np.isfinite(values)], self.edges[0], np.nextafter(self.edges[-1], 0))
        return np.histogram(inside, self.edges)[0] / max(inside.size, 1)


def _summed(rows: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    return tuple(int(count) for count in np.sum(rows, axis=0))


HISTOGRAMS = {
    h.name: h
    for h in (
        Histogram(
            "preferred_orientation", "preferred orientation", "degrees", DE_VALOIS_A, "all",
            (-22.5, 22.5, 67.5, 112.5, 157.5), (110, 83, 100, 92),
        ),
        Histogram(
            "peak_frequency", "preferred spatial frequency", "cycles/degree", DE_VALOIS_B,
            "simple and complex cells of fovea and parafovea",
            (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.2, 16.0, 22.4), _summed(_PEAKS), scaled=True,
        ),
        Histogram(
            "frequency_selective", "selective for spatial frequency", "1", SCHILLER, "all 87", (0.0, 0.5, 1.0), (14, 73)
        ),
        Histogram(
            "frequency_ratio", "100 · lower / upper frequency at 1/√2 of the peak", "1", SCHILLER,
            "73 selective simple and complex cells", tuple(float(e) for e in range(0, 101, 10)), _summed(_BANDWIDTHS),
        ),
        Histogram(
            "suppression", "surround suppression index", "1", CAVANAUGH, "190 cells",
            tuple(round(0.2 * e, 1) for e in range(11)), (66, 44, 38, 23, 16, 3, 0, 0, 0, 0),
        ),
        Histogram(
            "strongly_suppressed", "suppressed by more than 10%", "1", CAVANAUGH, "190 cells", (0.0, 0.5, 1.0), (42, 148)
        ),
        Histogram(
            "summation", "grating summation field", "degrees", CAVANAUGH, "148 suppressed by more than 10%",
            _OCTAVES, (0, 9, 30, 55, 42, 10, 2, 0), scaled=True,
        ),
        Histogram(
            "surround", "surround diameter", "degrees", CAVANAUGH, "148 suppressed by more than 10%",
            _OCTAVES, (0, 0, 2, 20, 33, 49, 40, 4), scaled=True,
        ),
        Histogram(
            "surround_ratio", "surround over summation field", "1", CAVANAUGH, "148 suppressed by more than 10%",
            (1.0, 2.0, 4.0, 8.0, 16.0, 32.0), (69, 38, 31, 10, 0),
        ),
    )
}  # fmt: skip
