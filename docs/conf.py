"""The site: Sphinx with MyST-NB. ``make docs`` builds it into ``docs/_build/html`` without a network.

The Markdown of this folder is written for a code host too. So what only a site has is added here: the tables of contents, the
README and its like as pages (stubs in ``project/``), and links that lead out of this folder.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What runs the tutorials imports this checkout, wherever the package is installed from.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

from docutils import nodes  # noqa: E402
from latex2mathml.converter import convert  # noqa: E402

import pyro_hvae  # noqa: E402

project, author = "pyro_hvae", "The pyro_hvae authors"
version = release = pyro_hvae.__version__
copyright = "the pyro_hvae authors, Apache License 2.0"
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "conf.py", "figures.py", "figures/*.py", "check_links.py", "results-schema.json"]
source_suffix = {".md": "myst-nb", ".py": "myst-nb"}

# -- Markdown and tutorials
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_fence_as_directive = ["math"]
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
# PYRO_HVAE_DOCS_RUN=off builds the pages without running the tutorials, for whoever writes prose.
nb_execution_mode = os.environ.get("PYRO_HVAE_DOCS_RUN", "cache")
nb_execution_cache_path = str(DOCS / "_build" / "executed")
nb_execution_in_temp = True
nb_execution_timeout = (
    600  # seconds a cell, for busy machines; a whole tutorial takes less than three minutes on two idle cores
)
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# netCDF files and figures of other packages may warn on standard error; the pages show results.
nb_output_stderr = "remove"

# -- reference
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_google_docstring = False
default_role = "code"
python_use_unqualified_type_names = True
toc_object_entries = False
maximum_signature_line_length = 88
# Links into other projects need their inventories, which are on the network: only where that is asked for.
if os.environ.get("PYRO_HVAE_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "xarray": ("https://docs.xarray.dev/en/stable", None),
        "pyro": ("https://docs.pyro.ai/en/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

# -- pages
html_theme = "furo"
html_math_renderer = "mathml"  # drawn by the browser itself: MathJax would come over the network
html_title = f"pyro_hvae {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
copybutton_exclude = ".linenos, .gp"
suppress_warnings = ["myst.xref_missing"] if nb_execution_mode == "none" else []

#: The tables of contents, by the page that holds them.
CONTENTS: dict[str, dict[str, list[str]]] = {
    "index": {
        "Start": ["project/readme", "tasks", "tutorials/index", "howto/index", "faq"],
        "Explanation": [
            "training", "recipes", "composability", "gradients", "product-distribution", "stimuli", "physiology", "report",
            "posterior-file", "tutorial-arviz", "yardsticks", "sweeps", "from-pyro",
        ],
        "Models": [
            f"models/{name}" for name in ("linear-vae", "tdvae", "skip-vae", "chain-vae", "td-iwae", "ea-vae", "guides")
        ],
        "Evidence": ["reproduction", "benchmarks", "reliability"],
        "Reference": ["reference/index", "reference/command-line"],
        "Project": ["architecture", "project/contributing", "project/changes", "project/data"],
    },
    "tutorials/index": {"": sorted(f"tutorials/{p.stem}" for p in (DOCS / "tutorials").glob("[0-9]*.py"))},
    "howto/index": {"": sorted(f"howto/{p.stem}" for p in (DOCS / "howto").glob("*.md") if p.stem != "index")},
    "reference/index": {
        "": sorted(
            f"reference/{p.stem}" for p in (DOCS / "reference").glob("*.md") if p.stem not in ("index", "command-line")
        )
    },
}  # fmt: skip

#: Files outside this folder that are pages of the site.
PROJECT = {
    "project/readme": "README.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/changes": "CHANGELOG.md",
    "project/data": "data/README.md",
}


def read_source(app: object, docname: str, content: list[str]) -> None:
    """What a code host does not need: called with every page as it is read."""
    file = DOCS / f"{docname}.md"
    text = content[0]
    if docname in PROJECT:
        file = ROOT / PROJECT[docname]
        text = file.read_text(encoding="utf-8")
    if docname == "reference/command-line":
        text = text.replace("<!-- commands -->", commands())
    if file.suffix == ".md" and file.exists():
        text = relinked(text, file.parent, (DOCS / docname).parent)
    for caption, pages in CONTENTS.get(docname, {}).items():
        listed = [page for page in pages if (DOCS / f"{page}.md").exists() or (DOCS / f"{page}.py").exists()]
        heading = f":caption: {caption}\n" if caption else ""
        body = "\n".join(f"/{page}" for page in listed)
        text += f"\n\n```{{toctree}}\n:hidden:\n{heading}\n{body}\n```\n"
    content[0] = text


def relinked(text: str, written_in: Path, shown_in: Path) -> str:
    """Links as they lead from the page on the site: to pages where there is one, to a file's text otherwise.

    Folders of the repository have no page; they become code.
    """
    pages = {(ROOT / file).resolve(): DOCS / f"{page}.md" for page, file in PROJECT.items()}

    def link(match: re.Match) -> str:
        words, target = match["words"], match["target"]
        path, _, fragment = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return match[0]
        found = (written_in / path).resolve()
        if not found.exists():
            return match[0]
        if found.is_dir():
            return f"`{found.relative_to(ROOT)}/`" if "`" not in words else words
        found = pages.get(found, found)
        relative = os.path.relpath(found, shown_in)
        if found.suffix != ".md" and not match["before"] and found.parent.name != "tutorials":
            return f"{{download}}`{words.replace('`', '')} <{relative}>`"
        return f"{match['before']}[{words}]({relative}{'#' + fragment if fragment else ''})"

    parts = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    pattern = re.compile(r"(?P<before>!?)\[(?P<words>[^\]]*)\]\((?P<target>[^)\s]+)\)")
    return "".join(part if part.startswith("```") else pattern.sub(link, part) for part in parts)


def returns_in_prose(app: object, kind: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """numpydoc takes the first line of "Returns" for a type, here it begins a sentence: the type is put before it."""
    text = "\n".join(lines)
    found = re.search(r"^Returns\n-+\n(Dataset\b.*?)(?=\n\n|\n*\Z)", text, re.DOTALL | re.MULTILINE)
    if found:
        body = found[1].replace("\n", "\n    ")
        lines[:] = (text[: found.start(1)] + f"xarray.Dataset\n    {body}" + text[found.end(1) :]).split("\n")


def commands() -> str:
    """The help of every command, as it is printed."""
    import argparse

    from pyro_hvae.cli import parser

    os.environ["COLUMNS"] = "96"
    (subparsers,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    helps = {choice.dest: choice.help for choice in subparsers._choices_actions}
    pages = []
    for name, command in subparsers.choices.items():
        pages.append(f"## pyro-hvae {name}\n\n{helps.get(name, '')}\n\n```text\n{command.format_help()}```\n")
    return "\n".join(pages)


def spaced(mathml: str) -> str:
    """With the space after log that TeX sets."""
    return mathml.replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.17em"/>')


def inline_math(self: object, node: nodes.math) -> None:
    """An equation in a line, as MathML."""
    self.body.append(spaced(convert(node.astext(), display="inline")))  # type: ignore[attr-defined]
    raise nodes.SkipNode


def displayed_math(self: object, node: nodes.math_block) -> None:
    """An equation on a line of its own, which scrolls where it is too wide."""
    drawn = spaced(convert(node.astext(), display="block"))
    self.body.append(f'<div class="math-block">{drawn}</div>')  # type: ignore[attr-defined]
    raise nodes.SkipNode


def setup(app: object) -> None:
    """Register what is above."""
    app.add_html_math_renderer(  # type: ignore[attr-defined]
        "mathml", inline_renderers=(inline_math, None), block_renderers=(displayed_math, None)
    )
    app.connect("source-read", read_source)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", returns_in_prose, priority=400)  # type: ignore[attr-defined]
