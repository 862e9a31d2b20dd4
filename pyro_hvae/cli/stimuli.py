"""``pyro-hvae stimuli KIND --out FILE``: a set of images, as a file of patches. Options are those of KIND's function."""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyro_hvae.cli.parsing import Parser, quoted
from pyro_hvae.errors import unknown

#: Kind → module and function: the function's keyword arguments are the options, its docstring the help.
KINDS = {
    "natural": ("pyro_hvae.stimuli.natural", "natural_patches"),
    "highest-contrast": ("pyro_hvae.stimuli.selections", "highest_contrast"),
    "disjoint-subsets": ("pyro_hvae.stimuli.selections", "disjoint_subsets"),
    "contrast-matched": ("pyro_hvae.stimuli.selections", "contrast_matched"),
    "masked": ("pyro_hvae.stimuli.masks", "masked"),
    "textures": ("pyro_hvae.stimuli.textures", "texture_patches"),
    "synthesised-textures": ("pyro_hvae.synthesis", "synthesised_textures"),
    "synthesised-patches": ("pyro_hvae.stimuli.synthesised", "synthesised_patches"),
    "gratings": ("pyro_hvae.stimuli.parametric", "gratings"),
    "gabors": ("pyro_hvae.stimuli.parametric", "gabors"),
    "differences-of-gaussians": ("pyro_hvae.stimuli.parametric", "differences_of_gaussians"),
    "plaids": ("pyro_hvae.stimuli.parametric", "plaids"),
    "bars": ("pyro_hvae.stimuli.parametric", "bars"),
    "edges": ("pyro_hvae.stimuli.parametric", "edges"),
    "illusory-contours": ("pyro_hvae.stimuli.illusory", "illusory_contours"),
    "dead-leaves": ("pyro_hvae.stimuli.dead_leaves", "dead_leaves"),
    "sprites": ("pyro_hvae.stimuli.sprites", "sprites"),
    "digits": ("pyro_hvae.stimuli.digits", "digits"),
    "optic-flow": ("pyro_hvae.stimuli.optic_flow", "optic_flow"),
}
_TYPES = {"int": int, "float": float, "str": str}


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "stimuli",
        help="make a set of images",
        description="Make a set of images, written as a file of patches for `train` and `export --patches`.",
        epilog=f"KIND is one of: {', '.join(KINDS)}. `pyro-hvae stimuli KIND --help` lists its options.",
    )
    parser.add_argument("kind", metavar="KIND")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="... --out FILE")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the set, write it, and print what it is."""
    if arguments.kind not in KINDS:
        raise unknown("kind of stimulus", arguments.kind, KINDS)
    module, name = KINDS[arguments.kind]
    make: Callable[..., Any] = getattr(importlib.import_module(module), name)
    given = vars(_parser(arguments.kind, make).parse_args(arguments.options))
    out, overwrite = Path(given.pop("out")), given.pop("overwrite")
    from pyro_hvae.stimuli.patches import check_patches_target

    check_patches_target(out, overwrite=overwrite)
    for line in _write(make, given, out, overwrite):
        print(line)
    return 0


def _write(make: Callable[..., Any], given: dict[str, Any], out: Path, overwrite: bool) -> list[str]:
    """Make the set and write it; lines that say what it is, with the decoding of texture families from pixels."""
    from pyro_hvae.stimuli import PatchData
    from pyro_hvae.stimuli.displays import as_patch_data, read_transform
    from pyro_hvae.stimuli.pixels import pixel_decoding

    options = dict(given)
    if options.get("patches"):
        options["patches"] = PatchData.load(options["patches"])
    if options.get("transform"):
        options["transform"] = read_transform(options["transform"])
        options.setdefault("size", options["transform"].size)
    if "out" in inspect.signature(make).parameters:  # writes by itself, in bounded memory
        data = PatchData.load(make(**options, out=out, overwrite=overwrite))
    else:
        made = make(**options)
        data = made if isinstance(made, PatchData) else as_patch_data(made, options.get("transform"))
        data.save(out, overwrite=overwrite)
    counts = f"{data.train.sizes['image']:,} training and {data.test.sizes['image']:,} test images"
    size = f"{data.size}×{data.size} pixels" + (f" in {data.channels} channels" if data.channels > 1 else "")
    lines = [f"{out}: {counts} of {size}"]
    if data.train.sizes["image"] and len(set(data.train["family"].values)) > 1:
        lines.append(str(pixel_decoding(data)))
    limit = data.test.sizes["image"]
    lines.append(
        f"next: pyro-hvae export RUN --patches {quoted(out)} --textures none --limit {limit} --out posterior.nc"
    )
    return lines


def _parser(kind: str, make: Callable[..., Any]) -> Parser:
    parser = Parser(
        prog=f"pyro-hvae stimuli {kind}",
        description=inspect.getdoc(make),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="file of patches to write, netCDF")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    for name, parameter in inspect.signature(make).parameters.items():
        flag, required = f"--{name.replace('_', '-')}", parameter.default is inspect.Parameter.empty
        if name in ("out", "overwrite"):
            continue
        if name == "patches":
            parser.add_argument(flag, required=True, metavar="FILE", help="patches saved before")
            continue
        if name == "transform":
            text = "whiten as the images of this run, or of this file of patches"
            parser.add_argument(flag, required=required, metavar="RUN", help=text)
            continue
        annotation = str(parameter.annotation)
        annotation = {"Values": "Sequence[float]", "Names": "Sequence[str]"}.get(annotation, annotation)
        many = annotation.startswith("Sequence[")
        kind_of = annotation.removeprefix("Sequence[").removesuffix("]").split(" |")[0]
        shown = "" if required or parameter.default is None else f"default: {_shown(parameter.default)}"
        if kind_of == "bool":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=shown)
            continue
        parser.add_argument(
            flag,
            type=_TYPES[kind_of],
            nargs="+" if many else None,
            required=required,
            default=argparse.SUPPRESS,
            metavar=name.upper(),
            help=shown,
        )
    return parser


def _shown(default: Any) -> str:
    return (
        " ".join(map(str, default)) if isinstance(default, Sequence) and not isinstance(default, str) else f"{default}"
    )
