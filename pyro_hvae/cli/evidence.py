"""``pyro-hvae evidence``: log p(x) of held-out images under trained runs, side by side."""

from __future__ import annotations

import argparse

from pyro_hvae.cli.parsing import add_device, add_out, add_seed, at_least


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser("evidence", help="estimate log p(x) of held-out images, for one run or several")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directories; log p(x) is that of the same images under each"
    )
    parser.add_argument(
        "--limit", type=at_least(1), default=100, metavar="N", help="held-out images of the first run, at most (100)"
    )
    parser.add_argument(
        "--particles", type=at_least(2), default=5000, metavar="K", help="importance samples an image (5000)"
    )
    parser.add_argument("--ais", action="store_true", help="annealed importance sampling from the prior as well (slow)")
    parser.add_argument(
        "--bdmc", action="store_true", help="the gap of AIS on images simulated from the model as well (slow)"
    )
    parser.add_argument("--temperatures", type=at_least(2), default=1000, metavar="T", help="of AIS (1000)")
    parser.add_argument("--chains", type=at_least(1), default=8, help="of AIS, an image (8)")
    add_out(parser, "netCDF file for the numbers per image", required=False)
    add_device(parser)
    add_seed(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a table with a row a run: means over images with their standard errors."""
    import os
    from pathlib import Path

    import torch
    import xarray as xr
    from rich.console import Console
    from rich.table import Table

    from pyro_hvae.bounds.objectives import ELBO
    from pyro_hvae.errors import HVAEError
    from pyro_hvae.sampling.diagnostics import share_trusted
    from pyro_hvae.sampling.evidence import bdmc, evidence_ais, evidence_importance_sampling
    from pyro_hvae.storage.pareto_limits import GOOD_K
    from pyro_hvae.storage.writing import EVIDENCE, check_target, replacing
    from pyro_hvae.training.fit import torch_device
    from pyro_hvae.training.run_directory import RunDirectory, load

    if arguments.out:
        check_target(arguments.out, overwrite=arguments.overwrite, schema=EVIDENCE)
    device = torch_device(arguments.device)
    patches = RunDirectory.open(arguments.runs[0]).held_out()["x"].values[: arguments.limit]
    images = torch.from_numpy(patches).to(device)
    settings = dict(num_temperatures=arguments.temperatures, num_chains=arguments.chains, seed=arguments.seed)
    iw, less, trusted = f"IW-{arguments.particles}", "IW, less the first run's", f"k-hat < {GOOD_K}"
    columns = ["run", "ELBO", iw, less, trusted]
    columns += ["AIS"] if arguments.ais else []
    columns += ["BDMC gap"] if arguments.bdmc else []
    table = Table(
        *columns, title=f"log p(x) of {len(images)} held-out images, nats an image, mean ± standard error over images"
    )
    results: list[xr.Dataset] = []
    for path in arguments.runs:
        vae = load(path).to(device)
        x = images.to(vae.dtype)
        if vae.pixels != x.shape[1]:
            raise HVAEError(
                f"{path} is a model of {vae.pixels} pixels, the images of {arguments.runs[0]} have {x.shape[1]}"
            )
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(arguments.seed)
            elbo = ELBO(16).evaluate(vae.model, vae.guide, x).elbo.cpu().numpy()
        sampled = evidence_importance_sampling(vae, x, arguments.particles, seed=arguments.seed)
        found = {"elbo": ("image", elbo)} | {name: sampled[name] for name in sampled.data_vars}
        ours = sampled["log_evidence"].values
        row = {
            "run": path,
            "ELBO": _mean(elbo),
            iw: _mean(ours),
            # Of the same images: the error of the difference is smaller than those of the two.
            less: _mean(ours - results[0]["log_evidence"].values) if results else "–",
            trusted: f"{share_trusted(sampled['pareto_k'].values):.0%}",
        }
        if arguments.ais:
            annealed = evidence_ais(vae.model, x, **settings)
            found |= {f"ais_{name}": annealed[name] for name in ("log_evidence", "standard_error")}
            row["AIS"] = _mean(annealed["log_evidence"].values)
        if arguments.bdmc:
            gap = bdmc(vae.model, num_images=min(len(x), 20), **settings)["gap"].values
            row["BDMC gap"] = _mean(gap)
            found["bdmc_gap"] = ("simulated_image", gap)
        table.add_row(*(row[column] for column in columns))
        results.append(xr.Dataset(found))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    if arguments.out:
        runs = [os.path.relpath(r, Path(arguments.out).parent) if os.path.isabs(r) else r for r in arguments.runs]
        joined = xr.concat(results, xr.DataArray(runs, dims="run", name="run"))
        joined.attrs = {"schema": EVIDENCE, "schema_version": "1"}
        with replacing(arguments.out, overwrite=arguments.overwrite, schema=EVIDENCE) as partial:
            joined.to_netcdf(partial, engine="netcdf4")
    return 0


def _mean(values: object) -> str:
    import numpy as np

    array = np.asarray(values)
    error = f" ± {array.std(ddof=1) / len(array) ** 0.5:.2f}" if len(array) > 1 else ""
    return f"{array.mean():.2f}{error}"
