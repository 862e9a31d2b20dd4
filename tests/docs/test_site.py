"""The site: its reference is complete, every page is in a table of contents, the link checker finds what is broken."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import pyro_hvae

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def script(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented() -> set[str]:
    """Full names of what the pages of the reference document."""
    found = set()
    for page in REFERENCE.glob("*.md"):
        module = ""
        for directive, name in re.findall(
            r"^\.\. ([\w:]+):: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            module = name if directive == "currentmodule" else module
            if directive.startswith(("auto", "py:")) and directive != "autosummary":
                found.add(name if directive == "automodule" else f"{module}.{name}")
    return found


@pytest.mark.parametrize("room", ["", ".analysis", ".physiology", ".programs", ".report", ".stimuli", ".synthesis"])
def test_every_public_name_has_its_place_in_the_reference(room):
    """Once: under the package where it is a name of the package, else under its room."""
    module, pages = importlib.import_module(f"pyro_hvae{room}"), documented()
    rooms = {"analysis", "physiology", "programs", "report", "stimuli", "storage"}
    homes = [f"pyro_hvae{room}", "pyro_hvae", "pyro_hvae.report"]
    for name in set(module.__all__) - (rooms if not room else set()):
        assert any(f"{home}.{name}" in pages for home in homes), (
            f"pyro_hvae{room}.{name} is in no page of docs/reference"
        )


def test_what_the_reference_documents_is_there():
    for name in documented():
        module, _, last = name.rpartition(".")
        if last != "storage" and not module.endswith("storage"):
            assert hasattr(importlib.import_module(module), last), name


def test_every_module_of_the_storage_is_in_the_reference():
    there = {f"pyro_hvae.storage.{p.stem}" for p in (ROOT / "pyro_hvae/storage").glob("*.py")} - {
        "pyro_hvae.storage.__init__"
    }
    assert there <= documented()


def test_every_page_is_in_a_table_of_contents():
    contents = re.findall(r'"((?:[a-z-]+/)?[a-z-]+)"', (ROOT / "docs/conf.py").read_text().split("CONTENTS")[1])
    listed = set(contents) | {f"models/{name}" for name in contents}
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        if "_build" not in page.parts and name.split("/")[0] not in ("tutorials", "howto", "reference"):
            assert name in listed, f"{name} is in no table of contents of docs/conf.py"


def test_the_link_checker_finds_what_is_broken(tmp_path):
    (tmp_path / "index.html").write_text(
        '<h1 id="top">a</h1><a href="#top">1</a><a href="#gone">2</a><a href="b/page.html#x">3</a>'
        '<a href="b/none.html">4</a><a href="https://example.org/">5</a><img src="no.png">'
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "page.html").write_text('<a href="../index.html#top">1</a><p id="y">')
    broken = script(ROOT / "docs/check_links.py").broken(tmp_path)
    assert broken == [
        "index.html: #gone", "index.html: b/page.html#x", "index.html: b/none.html", "index.html: no.png",
    ]  # fmt: skip


def test_nothing_that_is_public_lacks_a_docstring():
    for name in pyro_hvae.__all__:
        thing = getattr(pyro_hvae, name)
        assert callable(thing) is False or (thing.__doc__ or "").strip(), name
