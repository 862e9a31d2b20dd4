"""The README's Python, word for word, at a size that a test can afford."""

import re
from pathlib import Path

import pytest

import pyro_hvae as hvae

README = (Path(__file__).parents[1] / "README.md").read_text()
TINY_DATA = dict(train=400, test=40)
TINY_FIT = dict(steps=3, batch=20, progress=False, device="cpu")
TINY_EXPORT = dict(moment_draws=2, prior_samples=4, draws=4)


def tiny(function, settings):
    """The function with these settings, whatever else it is called with."""
    return lambda *args, **kwargs: function(*args, **(kwargs | settings))


@pytest.fixture
def block():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return code


def test_it_is_ten_lines(block):
    assert sum(1 for line in block.splitlines() if line.strip()) == 10


def test_the_guide_is_swapped(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(hvae.stimuli, "natural_patches", tiny(hvae.stimuli.natural_patches, TINY_DATA))
    monkeypatch.setattr(hvae, "fit", tiny(hvae.fit, TINY_FIT), raising=False)
    monkeypatch.setattr(hvae, "export_posterior", tiny(hvae.export_posterior, TINY_EXPORT), raising=False)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["other"].model is names["vae"].model
    assert [start["start"] for start in names["vae"].starts] == ["ica", "energies"]
    assert type(names["vae"].guide).__name__ == "LadderGuide"
    assert type(names["other"].guide).__name__ == "TopDownGuide"
    report = Path("runs/report/report.html")
    assert str(report) in capsys.readouterr().out
    assert "TopDownGuide" in report.read_text() and "LadderGuide" in report.read_text()


def test_its_table_is_of_the_presets():
    """Every published system has its row, with the sizes it is built with."""
    from pyro_hvae.published import PRESETS

    rows = re.findall(
        r"^\| (\S*(?:VAE|IWAE)\S*.*?) \| \[.*?\]\(.*?\) \| (\S+) \| (.*?) \| (.*?) \| (.*?) \|", README, re.MULTILINE
    )
    listed: dict[str, tuple[str, ...]] = {}
    for names, *cells in rows:
        first = names.split(",")[0].split("-k")[0]
        listed |= {(first + name if name[0] == "-" else name): tuple(cells) for name in names.split(", ")}
    assert set(listed) == set(PRESETS)
    for name, (guide, patch, z1, z2) in listed.items():
        preset = PRESETS[name]
        one_layer = len(preset.dims) == 1
        assert guide == ("one-layer" if one_layer else preset.guide.replace("_", "-")), name
        assert f"{preset.patch}×{preset.patch}" in patch and str(preset.dims[0]) in z1, name
        assert z2 == "–" if one_layer else str(preset.dims[1]) in z2.split(", "), name
