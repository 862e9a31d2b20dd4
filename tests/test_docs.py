"""The documentation: links lead somewhere, commands parse, Python runs, and tables agree with what is built."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.cli import parser
from pyro_hvae.stimuli import PatchData, patch_dataset

ROOT = Path(__file__).parents[1]
HIDDEN = {".venv", ".venv-arviz1", "runs", "build", ".pytest_cache", ".hypothesis"}
PAGES = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.md") if not HIDDEN & {*p.relative_to(ROOT).parts})
MODEL_PAGES = [page for page in PAGES if page.parent == Path("docs/models")]


def text(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text(page), flags=re.DOTALL)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text(page), re.MULTILINE)}


def commands(page: Path) -> list[str]:
    """Lines of code that call the command line, without their comments."""
    lines = re.findall(r"^ {4}(?:PIP\S+ )?(pyro-hvae .*)$", text(page), re.MULTILINE)
    return [line.split("  #")[0].strip() for line in lines]


def python(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text(page), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_relative_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if fragment:
            assert fragment in anchors(path.resolve().relative_to(ROOT)), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_that_are_named_are_there(page):
    """Files of the package, its tests and benchmarks, by path or by their name alone; links are called as what they lead to."""
    if page == Path("CHANGELOG.md"):
        return  # tells of what was
    rooms = ("pyro_hvae", "tests", "benchmarks", "analyses", "docs")
    files = [p.relative_to(ROOT) for room in rooms for p in (ROOT / room).rglob("*") if "__pycache__" not in p.parts]
    names = {p.name for p in files} | {"setup.py", "conftest.py"}
    code = re.findall(r"`([^`\n]+)`", text(page))
    for path in (c for c in code if re.fullmatch(r"(pyro_hvae|tests|benchmarks|analyses|docs)/[\w./-]+\.\w+", c)):
        assert (ROOT / path).exists(), path
    for name in (c for c in code if re.fullmatch(r"\w+\.py", c)):
        assert name in names, name
    for name, target in re.findall(r"\[`([\w./]+\.py)`\]\(([^)\s]+)\)", text(page)):
        assert Path(name).name == Path(target).name, f"{name} leads to {target}"


def test_every_module_of_the_package_has_its_place_in_the_architecture():
    """By its room and its name; and what is named there, is there."""
    drawn = text(Path("docs/architecture.md")).split("## The rooms")[1].split("## Where to make")[0]
    rooms = re.split(r"^ {6}(?=\S+/ )", drawn, flags=re.MULTILINE)
    drawn_in = {room.split("/")[0]: set(re.findall(r"\b(\w+\.py)\b", room)) for room in rooms[1:]}
    #: Rooms whose modules are one for each thing that the room is about, named after it.
    alike = {"stimuli", "analysis", "cli"}
    for room in sorted(p.parent for p in (ROOT / "pyro_hvae").glob("*/__init__.py")):
        there = {p.name for p in room.glob("*.py")} - {"__init__.py"}
        assert room.name in drawn_in, f"{room.name} is not in docs/architecture.md"
        if room.name not in alike:
            assert there - drawn_in[room.name] == set(), (
                f"modules of {room.name} that docs/architecture.md does not name"
            )


def test_the_architecture_names_the_room_for_ten_changes():
    table = text(Path("docs/architecture.md")).split("## Where to make the next change")[1].split("\n## ")[0]
    changes = re.findall(r"^\| (?!change|---)(.+?) \| (.+) \|$", table, re.MULTILINE)
    assert len(changes) >= 10
    for change, place in changes:
        paths = [p for p in re.findall(r"`([\w/]+/(?:\w+\.py)?)`", place)]
        assert paths, change
        for path in paths:
            assert (ROOT / path).exists() or (ROOT / "pyro_hvae" / path).exists(), f"{change}: {path}"
        for name in re.findall(r"`([A-Z]\w+)` (?:of|in) `([\w/]+\.py)`", place):
            homes = [p for p in (ROOT / "pyro_hvae").rglob(Path(name[1]).name) if str(p).endswith(name[1])]
            assert any(re.search(rf"\b{name[0]}\b", p.read_text()) for p in homes), f"{change}: {name}"


def test_every_page_of_the_documentation_is_reached_from_its_index():
    reached, todo = set(), [Path("docs/index.md")]
    while todo:
        page = todo.pop()
        if page in reached or page not in PAGES:
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", text(page))
        todo += [((ROOT / page).parent / link).resolve().relative_to(ROOT) for link in links]
    assert {page for page in PAGES if page.parts[0] == "docs"} <= reached


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=str)
def test_commands_parse(page):
    for command in commands(page):
        arguments = shlex.split(command)[1:]
        parsed = parser().parse_args(arguments)
        preset = getattr(parsed, "preset", None)
        assert preset is None or preset in hvae.PRESETS, command


@pytest.mark.parametrize("page", MODEL_PAGES, ids=str)
def test_python_of_model_pages_runs(page):
    names: dict = {}
    for block in python(page):
        exec(compile(block, str(page), "exec"), names)


def test_a_guide_of_ones_own_is_a_guide(tmp_path):
    names: dict = {}
    (block,) = python(Path("docs/models/guides.md"))
    exec(compile(block, "guides.md", "exec"), names)
    assert [bound.shape for bound in names["bounds"]] == [(5,), (5,)]
    assert all(torch.isfinite(bound).all() for bound in names["bounds"])
    x = np.random.default_rng(0).standard_normal((60, 400))
    data = PatchData(patch_dataset(x, split="train"), patch_dataset(x[:20], split="test"), None, 20)
    vae, run = names["vae"], tmp_path / "mine"
    hvae.fit(vae, data, steps=2, batch=20, learning_rate=1e-3, out=run, progress=False, device="cpu")
    fresh = hvae.build("TDVAE20", seed=1).with_guide(names["LinearTopDown"]())
    loaded = hvae.load(run, vae=fresh)
    assert torch.equal(loaded.guide.z1.weight, vae.guide.z1.weight)
    with hvae.export_posterior(loaded, data, draws=2, resample=3) as tree:
        assert hvae.analysis.active_dimensions(tree)["count"].sizes == {"site": 2}


def test_python_of_the_training_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = hvae.fit
    tiny = dict(steps=3, batch=20, progress=False, device="cpu")
    monkeypatch.setattr(hvae, "fit", lambda *args, **kwargs: real(*args, **(kwargs | tiny)), raising=False)
    names = {"vae": small_pair(), "data": small_data()}
    for block in python(Path("docs/training.md")):
        exec(compile(block, "training.md", "exec"), names)
    assert names["run"].step == 3 and names["run"].interrupted is None
    assert "step 3 of 3, done" in Path("watch.html").read_text() and Path("logs/training.csv").is_file()
    assert sorted(p.name for p in Path("runs/first").iterdir()) == [
        "checkpoints", "config.json", "heldout.nc", "history.nc",
    ]  # fmt: skip
    assert hvae.load("runs/first").latents == names["vae"].latents


def test_python_of_the_posterior_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hvae.export_posterior(small_pair(), small_data(), draws=30, moment_draws=4, path="posterior.nc").close()
    for block in python(Path("docs/posterior-file.md")):
        exec(compile(block, "posterior-file.md", "exec"), {})


@pytest.mark.filterwarnings("ignore")
def test_python_of_the_page_on_other_guides_runs(capsys):
    names: dict = {}
    for block in python(Path("docs/from-pyro.md")):
        exec(compile(block, "from-pyro.md", "exec"), names)
    assert float(capsys.readouterr().out.split()[0]) < 1e-5
    assert names["k"].sizes == {"image": 5}


def test_python_of_the_report_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report").mkdir()
    entry = {
        "file": "mine",
        "analysis": "trust",
        "name": "trusted[natural]",
        "value": 0.9,
        "interval": [0.8, 1],
        "n": 9,
        "unit": "1",
    }
    results = {"files": {"mine": {"attributes": {"guide": "LadderGuide"}}}, "results": [entry]}
    (tmp_path / "report" / "results.json").write_text(json.dumps(results))
    for block in python(Path("docs/report.md")):
        exec(compile(block, "report.md", "exec"), {})
    assert capsys.readouterr().out == "LadderGuide trust trusted[natural] 0.9 [0.8, 1] 9 1\n"


def test_python_of_the_physiology_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in python(Path("docs/physiology.md")):
        exec(compile(block, "physiology.md", "exec"), {})
    assert 10 < float(capsys.readouterr().out) < 60  # degrees
    with hvae.open_physiology("physiology.nc") as tree:
        assert tree["blank"].sizes["z1_unit"] == 5


def test_python_of_the_yardsticks_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"hvae": hvae, "vae": small_pair(), "data": small_data()}
    for block in python(Path("docs/yardsticks.md")):
        exec(compile(block, "yardsticks.md", "exec"), names)
    with hvae.open_posterior("posterior.nc") as tree:
        assert tree["yardsticks"]["log_density"].notnull().all()
    listed = re.findall(r"^\| ([A-Z]?[\w ]+?) \|", text(Path("docs/yardsticks.md")), re.MULTILINE)
    assert listed == ["yardstick", *names["found"]["yardstick"].values]


def test_bottom_up_guide_has_the_moments_that_its_page_says():
    """No variance of z1 from z2, and z1 correlations the identity; the top-down guide has both."""
    moments = {}
    for guide in ("bottom_up", "top_down"):
        with hvae.export_posterior(small_pair(guide), small_data(), moment_draws=8, units=(0, 1, 2)) as tree:
            moments[guide] = tree["posterior_moments"].to_dataset().load()
    identity = np.broadcast_to(np.eye(3), moments["bottom_up"]["z1_correlation"].shape)
    np.testing.assert_allclose(moments["bottom_up"]["z1_variance_from_z2"], 0, atol=1e-12)
    np.testing.assert_allclose(moments["bottom_up"]["z1_correlation"], identity, atol=1e-7)
    assert (moments["top_down"]["z1_variance_from_z2"] > 0).all()
    assert not np.allclose(moments["top_down"]["z1_correlation"], identity, atol=1e-5)


def test_parameter_counts_of_the_model_pages():
    """Last column of the layer tables against the modules, built without storage."""
    from pyro_hvae.programs import GUIDES, MODELS
    from pyro_hvae.programs.widths import published_hidden
    from pyro_hvae.published import PRESETS, build

    pairs = {name: build(name) for name, preset in PRESETS.items() if preset.contrast}
    counted = {name: sum(p.numel() for p in vae.parameters()) for name, vae in pairs.items()}
    with torch.device("meta"):
        for name, preset in ((n, p) for n, p in PRESETS.items() if not p.contrast):
            hidden = published_hidden(preset.pixels, len(preset.dims))
            common = dict(pixels=preset.pixels, dims=preset.dims, families=preset.families)
            parts = (
                MODELS[preset.model](**common, **hidden[preset.model]),
                GUIDES[preset.guide](**common, **hidden[preset.guide]),
            )
            counted[name] = sum(p.numel() for part in parts for p in part.parameters())
    listed = {}
    for page in MODEL_PAGES:
        for names, count in re.findall(r"^\| (\S*(?:VAE|IWAE)[^|]*?) \|.*\| ([\d,]{7,}) \|$", text(page), re.MULTILINE):
            family = re.match(r"\D+", names)[0]
            full = [name if name.startswith(family) else family + name for name in names.split(", ")]
            listed |= dict.fromkeys(full, int(count.replace(",", "")))
    assert listed == counted
