"""What the papers found, what these runs give, and whether it holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Rows = Mapping[str, Sequence[Mapping[str, float]]]
"""Measurements of every seed, by system."""
HOLDS, FAILS, UNTESTED = "holds", "does not hold", "not tested"


class Missing(KeyError):
    """A system that has not been trained, or a number that was not measured."""


@dataclass(frozen=True)
class Claim:
    """A finding and its test."""

    source: str
    statement: str
    theirs: str
    test: Callable[[Rows], tuple[str, bool]]
    """What was found, in words and figures, and whether the claim holds; :class:`Missing` where it was not measured."""
    rule: str
    """When it counts as holding."""


def values(rows: Rows, system: str, key: str) -> np.ndarray:
    """A number of every seed of a system."""
    found = np.array([row.get(key, np.nan) for row in rows.get(system, ())], float)
    found = found[np.isfinite(found)]
    if not len(found):
        raise Missing(f"{system}: {key}")
    return found


def mean(rows: Rows, system: str, key: str) -> float:
    return float(values(rows, system, key).mean())


def said(rows: Rows, system: str, key: str, spec: str = ".2f") -> str:
    """Mean ± s.d. over seeds; one number for one seed."""
    found = values(rows, system, key)
    spread = f" ± {format(found.std(ddof=1), spec)}" if len(found) > 1 else ""
    return f"{format(found.mean(), spec)}{spread}"


def listed(rows: Rows, systems: Sequence[str], key: str, spec: str = ".2f") -> str:
    """A number of several systems; those that are missing are left out, but not all."""
    present = [s for s in systems if any(np.isfinite(row.get(key, np.nan)) for row in rows.get(s, ()))]
    if not present:
        raise Missing(f"{', '.join(systems)}: {key}")
    return ", ".join(f"{s} {said(rows, s, key, spec)}" for s in present)


def active(rows: Rows) -> tuple[str, bool]:
    names = ("LinearVAE20", "TDVAE20", "ChainVAE20")
    return listed(rows, names, "active z1", ".0f"), all(abs(mean(rows, n, "active z1") - 314) <= 3 for n in names)


def skip_active(rows: Rows) -> tuple[str, bool]:
    z1, z2 = (mean(rows, "SkipVAE20", f"active {site}") for site in ("z1", "z2"))
    text = f"z1 {said(rows, 'SkipVAE20', 'active z1', '.0f')}, z2 {said(rows, 'SkipVAE20', 'active z2', '.0f')}"
    return text, z1 < 312 and abs(z1 + z2 - 314) <= 5


def localized(rows: Rows) -> tuple[str, bool]:
    laplace, normal = (mean(rows, n, "localized share") for n in ("LinearVAE20", "LinearVAE20n"))
    text = listed(rows, ("LinearVAE20", "TDVAE20", "LinearVAE20n"), "localized share")
    spread = listed(rows, ("LinearVAE20", "LinearVAE20n"), "median spread")
    return f"share of fields: {text}; median spread: {spread}", laplace > 0.5 and normal < 0.2


def saturates(rows: Rows) -> tuple[str, bool]:
    dims = (5, 10, 20, 40, 70, 140)
    counts = {}
    for preset in ("TDVAE20", "SkipVAE20"):
        names = [preset if d == 20 else f"{preset}, dim z2 = {d}" for d in dims]
        counts[preset] = [mean(rows, n, "active z2") for n in names]
    text = "; ".join(f"{p}: " + ", ".join(f"{c:.0f}" for c in found) for p, found in counts.items())
    td, skip = counts["TDVAE20"], counts["SkipVAE20"]
    return f"active of {dims}: {text}", td[-1] < 0.6 * dims[-1] and skip[-1] > td[-1] + 20


def all_active(system: str) -> Callable[[Rows], tuple[str, bool]]:
    def test(rows: Rows) -> tuple[str, bool]:
        text = (
            f"{said(rows, system, 'active z2', '.0f')} of 20, posterior s.d. {said(rows, system, 'z2 posterior s.d.')}"
        )
        return text, mean(rows, system, "active z2") >= 18

    return test


def decodes(system: str, textures: str) -> Callable[[Rows], tuple[str, bool]]:
    def test(rows: Rows) -> tuple[str, bool]:
        keys = ("decode z2 mean", "decode pixels", "decode norm", "decode power spectrum")
        text = ", ".join(f"{k.removeprefix('decode ')} {said(rows, system, f'{k}, {textures}')}" for k in keys)
        z2, pixels, norm = (mean(rows, system, f"{k}, {textures}") for k in keys[:3])
        return text, z2 > max(pixels, norm) + 0.1

    return test


def less_from_z1(system: str, textures: str) -> Callable[[Rows], tuple[str, bool]]:
    def test(rows: Rows) -> tuple[str, bool]:
        z1, z2 = (f"decode {s} mean, {textures}" for s in ("z1", "z2"))
        text = f"z1 means {said(rows, system, z1)}, z2 means {said(rows, system, z2)}"
        return text, mean(rows, system, z1) < mean(rows, system, z2) - 0.1

    return test


def noise_decodes(rows: Rows) -> tuple[str, bool]:
    key, floor = "decode z1 noise correlations, synthesised", "decode pixels, synthesised"
    names = [n for n in ("TDVAE20", "SkipVAE20", "TDVAE20, ladder", "SkipVAE20, ladder") if n in rows]
    text = listed(rows, names, key)
    chain = rows.get("ChainVAE20")
    if not chain:
        raise Missing("ChainVAE20")
    none = not any(np.isfinite(row.get(key, np.nan)) for row in chain)
    words = "ChainVAE20 none, q(z1 | x) factorises" if none else f"ChainVAE20 {said(rows, 'ChainVAE20', key)}"
    holds = none and all(mean(rows, n, key) > mean(rows, n, floor) + 0.1 for n in names)
    return f"{text}; {words}", holds


def correspondence(system: str) -> Callable[[Rows], tuple[str, bool]]:
    def test(rows: Rows) -> tuple[str, bool]:
        keys = [f"signal-noise correspondence, {p}" for p in ("within", "across")]
        text = ", ".join(f"{k.split(', ')[1]} {said(rows, system, k)}" for k in keys)
        within, across = (values(rows, system, k) for k in keys)
        return text, bool((within > 0.05).all() and (within > across).all())

    return test


def selective(rows: Rows) -> tuple[str, bool]:
    counts = {s: [mean(rows, s, k) for k in ("active z2", "selective z2")] for s in ("TDVAE20", "TDVAE20125")}
    text = "; ".join(f"{s}: {a:.0f} active, {n:.0f} selective" for s, (a, n) in counts.items())
    (a, n), (a125, n125) = counts.values()
    return text, n < a and a125 - n125 < a - n


def inpaints(*systems: str, linear: str = "LinearVAE20") -> Callable[[Rows], tuple[str, bool]]:
    def test(rows: Rows) -> tuple[str, bool]:
        inside, outside = "slope inside, r = 5", "slope outside, r = 5"
        names = (linear, *systems)
        text = f"inside: {listed(rows, names, inside)}; outside: {listed(rows, names, outside)}"
        holds = all(mean(rows, s, inside) > mean(rows, linear, inside) for s in systems)
        return text, holds and all(mean(rows, s, outside) <= mean(rows, linear, outside) + 0.02 for s in systems)

    return test


IWAE = tuple(f"TD-IWAE20, k = {k}" for k in (1, 4, 10, 50))


def by_k(key: str, spec: str, rising: bool) -> Callable[[Rows], tuple[str, bool]]:
    def test(rows: Rows) -> tuple[str, bool]:
        trained = [s for s in IWAE if rows.get(s)]
        if len(trained) < 2:
            raise Missing("TD-IWAE20 of several k")
        found = [mean(rows, s, key) for s in trained]
        ordered = all((b > a) == rising for a, b in itertools.pairwise(found))
        return listed(rows, trained, key, spec).replace("TD-IWAE20, ", ""), ordered

    return test


def number(system: str, key: str, low: float, high: float, spec: str = ".2f") -> Callable[[Rows], tuple[str, bool]]:
    def test(rows: Rows) -> tuple[str, bool]:
        return said(rows, system, key, spec), low <= mean(rows, system, key) <= high

    return test


def trusted(rows: Rows) -> tuple[str, bool]:
    names = ("TDVAE20", "TDVAE20, ladder")
    text = listed(rows, names, "k-hat < 0.7") + "; median effective share " + listed(rows, names, "median ESS", ".3f")
    return text, mean(rows, names[1], "k-hat < 0.7") > 0.5 > mean(rows, names[0], "k-hat < 0.7")


CLAIMS = (
    Claim(
        "[C22] Fig. 2c",
        "active z1 dimensions are those of the data in Linear, TD and Chain",
        "314",
        active,
        "each within 3 of 314",
    ),
    Claim(
        "[C22] Fig. 2g",
        "fewer active z1 dimensions in Skip, with active z1 + z2 constant",
        "z1 + z2 = 314",
        skip_active,
        "z1 < 312, sum within 5 of 314",
    ),
    Claim(
        "[C22] Fig. 2d, e",
        "Laplace z1: localized fields; Normal z1: extended ones",
        "–",
        localized,
        "share > 0.5 against < 0.2",
    ),
    Claim(
        "[C22] Fig. 2f",
        "active z2 saturates with dim z2 in TD, not in Skip",
        "–",
        saturates,
        "TD < 60% of 140, Skip 20 more",
    ),
    Claim(
        "[C22] Fig. 2i",
        "texture family is decodable from z2 means, not from pixels",
        "–",
        decodes("TDVAE20", "synthesised"),
        "z2 0.1 above pixels and patch norm",
    ),
    Claim(
        "[C22] Fig. 2i",
        "texture family is decodable from z2 means, not from pixels; ladder guide",
        "–",
        decodes("TDVAE20, ladder", "synthesised"),
        "z2 0.1 above pixels and patch norm",
    ),
    Claim(
        "[C22] Fig. 2i",
        "texture family is decodable from z2 means, textures through the natural intensity map",
        "–",
        decodes("TDVAE20", "crops, natural"),
        "z2 0.1 above pixels and patch norm",
    ),
    Claim(
        "[C22] Fig. 3a",
        "texture family is less decodable from z1 means than from z2 means",
        "–",
        less_from_z1("TDVAE20", "synthesised"),
        "z1 0.1 below z2",
    ),
    Claim(
        "[C22] Fig. 3a",
        "texture family is less decodable from z1 means than from z2 means; ladder guide",
        "–",
        less_from_z1("TDVAE20, ladder", "synthesised"),
        "z1 0.1 below z2",
    ),
    Claim(
        "[C22] Fig. 3b, c",
        "texture family is decodable from z1 noise correlations in TD and Skip, not in Chain",
        "–",
        noise_decodes,
        "0.1 above pixels; none in Chain",
    ),
    Claim(
        "[C22] Fig. 3d–g",
        "noise correlations follow signal correlations within a family more than across",
        "within > across > 0",
        correspondence("TDVAE20"),
        "within > 0.05 and > across, every seed",
    ),
    Claim(
        "[C22] Fig. 3d–g",
        "noise correlations follow signal correlations within a family more than across; ladder guide",
        "within > across > 0",
        correspondence("TDVAE20, ladder"),
        "within > 0.05 and > across, every seed",
    ),
    Claim(
        "[C22] Fig. 2h, j",
        "beta2 = 1.25 removes z2 dimensions that are not texture-selective",
        "–",
        selective,
        "fewer that are not",
    ),
    Claim(
        "[C22] Fig. 4",
        "TD and Skip inpaint better than Linear inside the mask, and lose slightly outside",
        "–",
        inpaints("TDVAE20", "SkipVAE20"),
        "inside above Linear; outside at most 0.02 above it",
    ),
    Claim(
        "[C22] Fig. 4",
        "TD with the ladder guide inpaints better than Linear inside the mask, and loses outside",
        "–",
        inpaints("TDVAE20, ladder"),
        "inside above Linear; outside at most 0.02 above it",
    ),
    Claim(
        "[V24]",
        "the bound improves with k, natural patches",
        "rises",
        by_k("log p(x), natural", ".1f", True),
        "rises at every k trained",
    ),
    Claim(
        "[V24]",
        "the bound improves with k, textures",
        "rises",
        by_k("log p(x), texture", ".1f", True),
        "rises at every k trained",
    ),
    Claim("[V24]", "KL of z1 falls with k", "falls", by_k("z1_kl, natural", ".1f", False), "falls at every k trained"),
    Claim(
        "[V24]",
        "reconstruction worsens with k",
        "falls",
        by_k("reconstruction, natural", ".1f", False),
        "falls at every k trained",
    ),
    Claim(
        "[V24] Tab. 5",
        "all 20 z2 dimensions are active, posterior s.d. about 0.4 (TDVAE)",
        "20, 0.4",
        all_active("TDVAE20"),
        "at least 18",
    ),
    Claim(
        "[V24] Tab. 5",
        "all 20 z2 dimensions are active, posterior s.d. about 0.4 (TDVAE, ladder guide)",
        "20, 0.4",
        all_active("TDVAE20, ladder"),
        "at least 18",
    ),
    Claim("[V24] Tab. 5", "active z1 (TDVAE)", "317", number("TDVAE20", "active z1", 311, 320, ".0f"), "311 to 320"),
    Claim(
        "[V24] Tab. 5",
        "localized fields (TDVAE)",
        "269",
        number("TDVAE20", "localized z1", 249, 289, ".0f"),
        "within 20",
    ),
    Claim(
        "[V24] Tab. 5",
        "texture family from z2 means (TDVAE)",
        "0.779",
        number("TDVAE20", "decode z2 mean, synthesised", 0.68, 0.88),
        "within 0.1",
    ),
    Claim(
        "[V24] Tab. 5",
        "texture family from z1 locations (TDVAE)",
        "0.254",
        number("TDVAE20", "decode z1 mean, synthesised", 0.15, 0.35),
        "within 0.1",
    ),
    Claim(
        "[V24] Tab. 5",
        "texture family from z1 locations (k = 10)",
        "0.567",
        number("TD-IWAE20, k = 10", "decode z1 mean, synthesised", 0.47, 0.67),
        "within 0.1",
    ),
    Claim(
        "[V24] Tab. 5",
        "texture-selective z2 dimensions (TDVAE)",
        "4",
        number("TDVAE20", "selective z2", 2, 6, ".1f"),
        "2 to 6",
    ),
    Claim(
        "[V24] Tab. 5",
        "mean of the 10 highest noise correlations (TDVAE)",
        "0.439",
        number("TDVAE20", "highest correlations, 10", 0.3, 0.58),
        "0.3 to 0.58",
    ),
    Claim(
        "[V24] Tab. 5",
        "consistency of the highest pairs, in s.d. (TDVAE)",
        "0.894",
        number("TDVAE20", "consistency, 10", 0.4, 4.0),
        "0.4 to 4",
    ),
    Claim(
        "here",
        "moments can be believed for most images with the ladder guide, for few with the published one",
        "–",
        trusted,
        "above and below half",
    ),
)

SMALL_CLAIMS = (
    Claim(
        "[C22] Fig. 2d, e",
        "Laplace z1: Gabor-like, localized fields; Normal z1: extended ones",
        "–",
        lambda rows: _small_localized(rows),
        "share > 0.5 against < 0.2",
    ),
    Claim(
        "[C22] Fig. 2i",
        "texture family from z2 well above pixels and patch norm",
        "–",
        decodes("TDVAE20, ladder", "synthesised"),
        "0.1 above both",
    ),
    Claim(
        "[C22] Fig. 3b, c",
        "noise correlations with top-down and ladder guides, none bottom-up",
        "–",
        lambda rows: _small_noise(rows),
        "mean |r| > 0.005; none",
    ),
    Claim(
        "[C22] Fig. 4",
        "TD above Linear inside the mask",
        "–",
        inpaints("TDVAE20, ladder", linear="LinearVAE20, ladder"),
        "inside above Linear; outside at most 0.02 above it",
    ),
)


def _small_localized(rows: Rows) -> tuple[str, bool]:
    names = ("LinearVAE20, ladder", "LinearVAE20n, ladder")
    text = (
        listed(rows, names, "localized share")
        + "; energy of a localized field in its Gabor "
        + said(rows, names[0], "Gabor energy")
    )
    return text, mean(rows, names[0], "localized share") > 0.5 and mean(rows, names[1], "localized share") < 0.2


def _small_noise(rows: Rows) -> tuple[str, bool]:
    key = "mean |noise correlation|"
    text = listed(rows, ("TDVAE20", "TDVAE20, ladder", "ChainVAE20"), key, ".4f")
    return text, min(mean(rows, s, key) for s in ("TDVAE20", "TDVAE20, ladder")) > 0.005 and mean(
        rows, "ChainVAE20", key
    ) < 1e-6


def judged(claims: Sequence[Claim], rows: Rows) -> list[tuple[Claim, str, str]]:
    """Claim, what was found, verdict: first what does not hold, then what does, then what was not tested."""
    found = []
    for claim in claims:
        try:
            text, holds = claim.test(rows)
        except Missing as missing:
            found.append((claim, f"not measured: {missing.args[0]}", UNTESTED))
        else:
            found.append((claim, text, HOLDS if holds else FAILS))
    return sorted(found, key=lambda entry: (FAILS, HOLDS, UNTESTED).index(entry[2]))
