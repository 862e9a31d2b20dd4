"""A finished run as a small folder: weights in safetensors, configuration in JSON, a card in Markdown; no pickles.

The folder is a run directory without optimizer and random state: every command and function that takes a run takes it, but it
cannot be resumed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.export.refinement import elbo
from pyro_hvae.programs import HVAE
from pyro_hvae.storage.writing import write_atomically
from pyro_hvae.training.run_directory import WEIGHTS, Checkpoint, RunDirectory, load, read_netcdf, write_netcdf

PRECISIONS = ("auto", "half", "single")
TOLERANCE = 0.05
"""Nats that the mean held-out ELBO may move by half precision, for ``precision="auto"`` to take it."""
JUDGED, DRAWS = 1000, 16


def pack(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: str = "auto",
    held_out: int = 0,
    licence: str = "",
    note: str = "",
) -> Path:
    """Pack the newest checkpoint of a run into a folder that can be passed on: to a colleague, a repository, a model hub.

    ``config.json`` (the pair, training, data, versions), ``model.safetensors`` (parameters), ``transform.nc``, ``history.nc``,
    ``yardsticks.nc`` and ``heldout.nc`` as far as the run has them and they are asked for, and ``README.md``, a card with what
    was trained on what and what came of it. Read back with :func:`pyro_hvae.load`.

    :param precision: of the parameters: ``"half"`` (float16), ``"single"`` (as they are), or ``"auto"``: half precision where
        the mean ELBO of held-out patches moves by less than 0.05 nats by it.
    :param held_out: held-out patches to pack; none by default, since whoever may use photographs may not always pass them on.
    :param licence: of the weights, as it stands on the card (an SPDX name).
    :param note: what readers of the card should know of the data.
    :returns: the folder.
    :raises HVAEError: for a folder that exists, a run without held-out patches, programs that are not ours.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if isinstance(held_out, bool) or not isinstance(held_out, int) or held_out < 0:
        raise HVAEError(f"held_out is a number of patches, 0 for none; got {held_out!r}")
    source, folder = RunDirectory.open(run), Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HVAEError(f"{folder} exists; give a folder that does not, or an empty one")
    checkpoint, vae = source.latest(), load(run)
    patches = source.held_out()
    x = torch.from_numpy(np.ascontiguousarray(patches["x"].values[:JUDGED])).to(vae.dtype)
    single = _mean_elbo(vae, x)
    half = _mean_elbo(_rounded(run), x)
    in_half = precision == "half" or (precision == "auto" and abs(half - single) < TOLERANCE)
    tensors = {name: t for name, t in checkpoint.tensors.items() if name.startswith("vae.")}
    if in_half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    config = source.config | {
        "packed": {
            "precision": "half" if in_half else "single",
            "held_out_elbo": round(half if in_half else single, 4),
            "held_out_elbo_single": round(single, 4),
            "held_out_patches": len(x),
        }
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = Checkpoint(checkpoint.step, tensors, checkpoint.configuration).bytes()
    write_atomically(folder / WEIGHTS, lambda file: file.write_bytes(content))
    if held_out:
        write_netcdf(_small(patches.isel(image=slice(held_out))), folder / "heldout.nc")
    for name in ("transform.nc", "history.nc", *(("yardsticks.nc",) if held_out else ())):
        if (source.path / name).exists():
            write_netcdf(_small(read_netcdf(source.path / name)), folder / name)
    card = _card(config, checkpoint.step, vae, source.history(), licence, note)
    write_atomically(folder / "README.md", lambda file: file.write_text(card, encoding="utf-8"))
    # Last: a folder without it is not taken for a run.
    write_atomically(
        folder / "config.json", lambda file: file.write_text(json.dumps(config, indent=1), encoding="utf-8")
    )
    return folder


def _mean_elbo(vae: HVAE, x: torch.Tensor) -> float:
    """Over the same random numbers for every pair."""
    return float(elbo(vae, x, DRAWS, 0)[0].mean())


def _rounded(run: str | os.PathLike[str]) -> HVAE:
    """The run's pair with its parameters rounded to half precision."""
    vae = load(run)
    with torch.no_grad():
        for tensor in [*vae.parameters(), *vae.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    return vae


def _small(dataset: xr.Dataset) -> xr.Dataset:
    """Compressed, and the directions of a whitening transform in single precision: 1e-7 of a patch's length."""
    if "components" in dataset:
        dataset["components"] = dataset["components"].astype(np.float32)
    for variable in dataset.variables.values():
        if variable.dtype.kind == "f" and variable.size > 100:
            variable.encoding = {"zlib": True, "complevel": 9}
    return dataset


def _card(config: dict[str, Any], step: int, vae: HVAE, history: xr.Dataset, licence: str, note: str) -> str:
    """The card, in Markdown with the front matter that model hubs read."""
    packed, fit, data = config["packed"], config["fit"], config["data"]
    provenance = data["provenance"]
    name = f"{vae.preset or type(vae.model).__name__}, {type(vae.guide).__name__}"
    parameters = sum(p.numel() for p in vae.parameters())
    starts = ", ".join(s["start"] for s in config.get("starts", [])) or "PyTorch's initialisation"
    beta = ", ".join(f"{site} {schedule}" for site, schedule in fit["beta"].items()) or "1"
    where = provenance.get("source")
    where = Path(str(where)).name if where else provenance.get("kind", "patches of one's own")
    lines = [
        "---", "library_name: pyro_hvae", *([f"license: {licence.lower()}"] if licence else []),
        "tags: [pyro, variational-autoencoder, visual-cortex]", "---", "", f"# {name}", "",
        f"A hierarchical variational autoencoder of image patches, {vae.pixels} pixels, trained with pyro_hvae "
        f"{config['versions'].get('pyro-hvae', '')}.", "",
        "    import pyro_hvae as hvae", "    vae = hvae.load(\"path/to/this/folder\")", "",
        "| | |", "|---|---|",
        f"| model | {type(vae.model).__name__}, " + ", ".join(
            f"z{l + 1} {family.capitalize()} ({dim})"
            for l, (dim, family) in enumerate(zip(vae.model.dims, vae.model.families, strict=True))
        ) + " |" if hasattr(vae.model, "families") else f"| model | {type(vae.model).__name__} |",
        f"| guide | {type(vae.guide).__name__} |",
        f"| parameters | {parameters:,}, {packed['precision']} precision |",
        f"| data | {data['images']:,} patches, {where} |",
        f"| start | {starts} |",
        f"| objective | {config['objective']['class']}, {config['objective']['num_particles']} particle(s) |",
        f"| steps | {step:,} of batch {fit['batch']}, Adam {fit['learning_rate']}, beta {beta} |",
        f"| ELBO of {packed['held_out_patches']:,} held-out patches | {packed['held_out_elbo']:.2f} nats "
        f"({packed['held_out_elbo_single']:.2f} before rounding) |",
        f"| seed, git revision | {fit['seed']}, {config.get('git_revision') or 'not recorded'} |",
    ]  # fmt: skip
    limits = (
        "Trained on whitened grey patches preprocessed as `transform.nc` has it; on others it means nothing. The guide's "
        "posterior is an approximation: `pyro-hvae export` with `--evidence` says for which images it can be believed."
    )
    lines += ["", "## Limits", "", limits, *(["", note] if note else [])]
    lines += ["", f"Licence of the weights: {licence}." if licence else "No licence was stated for these weights.", ""]
    return "\n".join(lines)
