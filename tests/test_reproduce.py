"""The reproduction's verdicts on planted measurements, and its list of systems."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from pyro_hvae.published import PRESETS

FOLDER = Path(__file__).parents[1] / "benchmarks" / "reproduce"


def module(name):
    spec = importlib.util.spec_from_file_location(f"reproduce_{name}", FOLDER / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


claims, systems = module("claims"), module("systems")


def verdict(test, rows):
    """Of one claim's test."""
    claim = claims.Claim("here", "a claim", "–", test, "a rule")
    ((_, text, found),) = claims.judged([claim], rows)
    return text, found


def test_systems_are_of_known_presets_and_have_names_of_their_own():
    for made in (systems.systems(), systems.small_systems()):
        assert len({s.name for s in made}) == len(made)
        assert all(s.preset in PRESETS and s.seeds for s in made)
    named = {s.name for s in systems.systems()}
    for preset in ("TDVAE20", "SkipVAE20"):
        assert {f"{preset}, dim z2 = {d}" for d in (5, 10, 40, 70, 140)} <= named
    assert {f"TD-IWAE20, k = {k}" for k in (1, 4, 10, 50)} <= named


@pytest.mark.parametrize(("counts", "expected"), [((314, 314, 314), "holds"), ((314, 310, 314), "does not hold")])
def test_active_dimensions(counts, expected):
    rows = {n: [{"active z1": c}] for n, c in zip(("LinearVAE20", "TDVAE20", "ChainVAE20"), counts, strict=True)}
    text, found = verdict(claims.active, rows)
    assert found == expected and f"TDVAE20 {counts[1]}" in text


def test_means_and_deviations_over_seeds_are_said():
    rows = {"TDVAE20": [{"decode z2 mean, synthesised": v} for v in (0.7, 0.8, 0.9)]}
    assert claims.said(rows, "TDVAE20", "decode z2 mean, synthesised") == "0.80 ± 0.10"
    text, found = verdict(claims.number("TDVAE20", "decode z2 mean, synthesised", 0.81, 0.9), rows)
    assert (text, found) == ("0.80 ± 0.10", "does not hold")


def decoding(z2, norm, pixels=0.2):
    values = {"z2 mean": z2, "norm": norm, "pixels": pixels, "power spectrum": 0.9}
    return {"TDVAE20": [{f"decode {k}, synthesised": v for k, v in values.items()}]}


def test_z2_must_beat_both_floors():
    test = claims.decodes("TDVAE20", "synthesised")
    assert verdict(test, decoding(0.8, 0.45))[1] == "holds"
    assert verdict(test, decoding(0.8, 0.75))[1] == "does not hold"
    assert verdict(test, decoding(0.29, 0.1))[1] == "does not hold"


def test_noise_correlations_must_be_absent_in_chain():
    key = "decode z1 noise correlations, synthesised"
    rows = {n: [{key: 0.5, "decode pixels, synthesised": 0.2}] for n in ("TDVAE20", "SkipVAE20")}
    assert verdict(claims.noise_decodes, rows | {"ChainVAE20": [{key: float("nan")}]})[1] == "holds"
    assert verdict(claims.noise_decodes, rows | {"ChainVAE20": [{key: 0.3}]})[1] == "does not hold"
    assert verdict(claims.noise_decodes, rows)[1] == "not tested"


def test_every_seed_counts_for_the_correspondence():
    def rows(*pairs):
        keys = ("signal-noise correspondence, within", "signal-noise correspondence, across")
        return {"TDVAE20": [dict(zip(keys, pair, strict=True)) for pair in pairs]}

    test = claims.correspondence("TDVAE20")
    assert verdict(test, rows((0.2, 0.0), (0.15, 0.1)))[1] == "holds"
    assert verdict(test, rows((0.2, 0.0), (0.05, 0.1)))[1] == "does not hold"


def test_trends_over_k_need_two_systems():
    rows = {f"TD-IWAE20, k = {k}": [{"log p(x), natural": v}] for k, v in ((1, -400.0), (4, -395.0), (10, -396.0))}
    test = claims.by_k("log p(x), natural", ".1f", True)
    assert verdict(test, rows)[1] == "does not hold"
    del rows["TD-IWAE20, k = 10"]
    assert verdict(test, rows) == ("k = 1 -400.0, k = 4 -395.0", "holds")
    del rows["TD-IWAE20, k = 4"]
    assert verdict(test, rows)[1] == "not tested"


def test_what_fails_comes_first_and_what_is_missing_is_said():
    rows = decoding(0.8, 0.75)
    made = claims.judged(claims.CLAIMS, rows)
    order = [("does not hold", "holds", "not tested").index(found) for _, _, found in made]
    assert order == sorted(order) and made[0][2] == "does not hold"
    assert all(text.startswith("not measured: ") for _, text, found in made if found == "not tested")
    assert len(made) == len(claims.CLAIMS) and len({(c.statement, c.source) for c, _, _ in made}) == len(made)
    with pytest.raises(claims.Missing):
        claims.values({"a": [{"x": np.nan}]}, "a", "x")
