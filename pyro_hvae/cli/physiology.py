"""``pyro-hvae physiology``: a physiologist's stimuli shown to a trained pair, and the page that comes of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pyro_hvae.cli.parsing import at_least

if TYPE_CHECKING:
    import xarray as xr

    from pyro_hvae.stimuli import Whitening


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser("physiology", help="measure the units of a run as a visual physiologist would")
    parser.add_argument("source", metavar="RUN", nargs="?", help="run directory, or one of its checkpoints")
    parser.add_argument(
        "--reference", metavar="NAME", help="a trained pair that ships instead (see `pyro-hvae references`)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="physiology.nc, report.html and figures go there")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier measurement and its report")
    parser.add_argument(
        "--response", default="mean", help="of a unit: mean, absolute_mean or sd of its posterior (mean)"
    )
    parser.add_argument("--parts", nargs="+", metavar="PART", help="what is measured beside gratings (all)")
    parser.add_argument(
        "--units", type=at_least(1), metavar="N", help="of each layer, those that answer gratings most (all)"
    )
    parser.add_argument("--contrast", type=float, default=0.3, help="Michelson contrast of the gratings (0.3)")
    parser.add_argument(
        "--pixels-per-degree", type=float, default=16.0, metavar="P", help="how large the patch is taken to be (16)"
    )
    parser.add_argument(
        "--textures", default="embedded", metavar="SOURCE", help="texture photographs: embedded, a folder, or none"
    )
    parser.add_argument(
        "--synthesised",
        metavar="FOLDER",
        help="synthesised images of families instead (FILE.images of synthesised-textures)",
    )
    parser.add_argument(
        "--texture-patches", type=at_least(1), default=600, metavar="N", help="of all families together (600)"
    )
    parser.add_argument("--draws", type=at_least(2), default=4, metavar="N", help="of the layers above (4)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.set_defaults(run=run)


def _textures(
    arguments: argparse.Namespace, transform: Whitening | None
) -> tuple[xr.Dataset | None, xr.Dataset | None]:
    """Patches of texture families, and of noise of the spectrum of each image at the same places."""
    import tempfile
    from pathlib import Path

    from pyro_hvae.errors import HVAEError
    from pyro_hvae.stimuli import PatchData, texture_patches
    from pyro_hvae.stimuli.synthesised import synthesised_patches

    wanted = arguments.parts is None or "texture" in arguments.parts
    if not wanted or (arguments.textures == "none" and arguments.synthesised is None):
        return None, None
    if transform is None:
        if arguments.textures != "embedded" or arguments.synthesised is not None or arguments.parts is not None:
            raise HVAEError(
                "the patches of this run arrived preprocessed, so there is no transform for textures; leave them out"
            )
        return None, None
    count, sets = arguments.texture_patches, []
    for control in ("none", "spectrum"):
        options: dict[str, Any] = dict(
            transform=transform, train=count, test=count, control=control, seed=arguments.seed
        )
        if arguments.synthesised is None:
            sets.append(texture_patches(transform.size, arguments.textures, **options).test)
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = synthesised_patches(
                arguments.synthesised, out=Path(folder) / "patches.nc", size=transform.size, **options
            )
            sets.append(PatchData.load(file).test)
    return sets[0], sets[1]


def run(arguments: argparse.Namespace) -> int:
    """Write the file and its report."""
    import time
    from pathlib import Path

    from pyro_hvae.errors import HVAEError, unknown
    from pyro_hvae.export.references import references
    from pyro_hvae.physiology import measure_physiology
    from pyro_hvae.report import analyse
    from pyro_hvae.storage.physiology_file import check_physiology_target, write_physiology
    from pyro_hvae.storage.writing import check_directory
    from pyro_hvae.training.fit import torch_device
    from pyro_hvae.training.run_directory import RunDirectory, load

    if (arguments.source is None) == (arguments.reference is None):
        raise HVAEError("give a run directory, or --reference NAME of a trained pair that ships, and not both")
    if arguments.reference is not None and arguments.reference not in (found := references()):
        raise unknown("reference", arguments.reference, found, hint="See `pyro-hvae references`.")
    source = Path(arguments.source) if arguments.reference is None else references()[arguments.reference]
    out = Path(arguments.out)
    check_directory(out)
    if not arguments.overwrite and (there := [p for p in (out / "physiology.nc", out / "report.html") if p.exists()]):
        raise HVAEError(f"{there[0]} exists; choose another directory or pass overwrite=True (--overwrite)")
    if out.is_dir():
        check_physiology_target(out / "physiology.nc", overwrite=arguments.overwrite)
    directory = RunDirectory.open(source.parent.parent if source.is_file() else source)
    vae = load(source).to(torch_device(arguments.device))
    started = time.monotonic()
    transform = directory.transform()
    textures, noise = _textures(arguments, transform)
    tree = measure_physiology(
        vae,
        images=directory.held_out(),
        transform=transform,
        textures=textures,
        noise=noise,
        response=arguments.response,
        parts=arguments.parts,
        units=arguments.units,
        contrast=arguments.contrast,
        pixels_per_degree=arguments.pixels_per_degree,
        draws=arguments.draws,
        seed=arguments.seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    file = out / "physiology.nc"
    write_physiology(tree, file, overwrite=arguments.overwrite)
    shown = ", ".join(f"{tree['blank'].sizes[dim]} units of {str(dim)[:-5]}" for dim in tree["blank"].dims)
    print(f"{file}: {shown}, {time.monotonic() - started:.0f} s")
    print(analyse(file, out, overwrite=arguments.overwrite))
    return 0
