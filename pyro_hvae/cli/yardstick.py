"""``pyro-hvae yardstick``: what other densities of a run's patches reach, beside its ELBO."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyro_hvae.cli.parsing import add_device, add_run, add_seed, at_least, open_run

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from pyro_hvae.training.run_directory import RunDirectory


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "yardstick",
        help="what other densities of a run's patches reach, beside its ELBO",
        description="Fit other densities (Gaussian, ICA, scale mixtures, mixtures) to the run's training patches and set its "
        "ELBO on its held-out patches beside theirs. Kept in RUN/yardsticks.nc, from where `pyro-hvae export` takes them.",
    )
    add_run(parser)
    parser.add_argument("--refit", action="store_true", help="fit again what RUN/yardsticks.nc holds already")
    parser.add_argument(
        "--limit", type=at_least(1), default=60_000, metavar="N", help="training patches used, at most (60000)"
    )
    parser.add_argument(
        "--patches",
        metavar="FILE",
        help="the run's patches (PatchData.save), where they cannot be cut again from its record",
    )
    parser.add_argument("--sigma", type=float, help="observation noise, for a model of your own that has no sigma")
    parser.add_argument(
        "--particles", type=at_least(1), default=16, metavar="K", help="draws an image for the ELBO (16)"
    )
    add_device(parser)
    add_seed(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fit, or read what was kept; print a table with a row a yardstick, and which of them the model beats."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from pyro_hvae.analysis.uncertainty import mean_and_se
    from pyro_hvae.analysis.yardsticks import verdict
    from pyro_hvae.bounds.objectives import ELBO
    from pyro_hvae.densities.matching import outdated
    from pyro_hvae.errors import HVAEError

    vae, directory, device = open_run(arguments)
    sigma = getattr(vae.model, "sigma", None)
    if (sigma is None) == (arguments.sigma is None):
        raise HVAEError(
            f"{type(vae.model).__name__} has no attribute sigma; give its observation noise as --sigma"
            if sigma is None
            else f"the model's own sigma is {float(sigma):g}; leave --sigma out"
        )
    sigma = float(arguments.sigma if sigma is None else sigma)
    held_out = _held_out(directory)
    found = None if arguments.refit else directory.yardsticks()
    settings = {"limit": arguments.limit, "seed": arguments.seed}
    if found is not None and (other := outdated(found, sigma=sigma, held_out=held_out, **settings)):
        print(f"{directory.path}/yardsticks.nc is of {other}: fitted again")
        found = None
    if found is None:
        found = _fit(directory, held_out, sigma, arguments)
    else:
        print(f"{directory.path}/yardsticks.nc of {found.attrs['created']} is used; --refit fits again")

    forked = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=forked):
        torch.manual_seed(arguments.seed)
        bound = ELBO(arguments.particles)
        parts = torch.from_numpy(held_out).to(device).split(128)
        elbo = torch.cat([bound.evaluate(vae.model, vae.guide, x).elbo for x in parts]).double().cpu().numpy()
    density = found["log_density"].values
    names = [str(name) for name in found["yardstick"].values]
    columns = ["yardstick", "log density", "on training patches", "ELBO less it", "seconds"]
    table = Table(*columns, title=f"{len(elbo)} held-out patches, nats a patch, mean ± standard error over patches")
    difference, error = mean_and_se(elbo - density, axis=1)
    for row, name in enumerate(names):
        fitted, seconds = float(found["train_log_density"][row]), float(found["seconds"][row])
        table.add_row(name, _mean(density[row]), f"{fitted:.2f}", _mean(elbo - density[row]), f"{seconds:.1f}")
    table.add_section()
    table.add_row("the model's ELBO", _mean(elbo), "", "", "")
    console = Console()
    (console if console.is_terminal else Console(width=110)).print(table)
    print(verdict("ELBO", names, difference, error) + ".")
    return 0


def _fit(directory: RunDirectory, held_out: np.ndarray, sigma: float, arguments: argparse.Namespace) -> xr.Dataset:
    from pyro_hvae.densities.yardsticks import yardsticks
    from pyro_hvae.errors import HVAEError
    from pyro_hvae.stimuli import PatchData
    from pyro_hvae.training.fit import recorded_data
    from pyro_hvae.training.run_directory import digest

    data = PatchData.load(arguments.patches) if arguments.patches else recorded_data(directory)
    train = data.train["x"].values
    if digest(train) != directory.config["data"]["train"]:
        raise HVAEError(
            f"the training patches {f'of {arguments.patches}' if arguments.patches else 'cut again from its record'} are not "
            f"those that {directory.path} was trained on (another digest): give those as --patches FILE"
        )
    print(f"fitting to {min(len(train), arguments.limit)} training patches: a few minutes for 20×20 pixels")
    found = yardsticks(
        train, held_out, sigma=sigma, limit=arguments.limit, seed=arguments.seed,
        progress=lambda name, mean, seconds: print(f"  {name}: {mean:.2f} ({seconds:.0f} s)", flush=True),
    )  # fmt: skip
    directory.write_yardsticks(found)
    return found


def _held_out(directory: RunDirectory) -> np.ndarray:
    from pyro_hvae.errors import HVAEError

    if not (directory.path / "heldout.nc").is_file():
        raise HVAEError(
            f"{directory.path} has no held-out patches (heldout.nc); copy the file from where the run was trained, or call "
            "hvae.yardsticks(train, test, sigma=...) on patches of your own"
        )
    return directory.held_out()["x"].values


def _mean(values: np.ndarray) -> str:
    from pyro_hvae.analysis.uncertainty import mean_and_se

    mean, error = mean_and_se(values)
    return f"{mean:.2f} ± {error:.2f}"
