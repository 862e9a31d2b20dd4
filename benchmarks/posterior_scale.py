"""Memory and time of posterior files, made and analysed, against the number of images.

    python benchmarks/posterior_scale.py --dir scratch            # everything; 20 GB of disk
    python benchmarks/posterior_scale.py --dir scratch --only draws_nc

Each measurement is a process of its own, whose peak resident memory is what the operating system says it was. The pair is
TDVAE20 (450 + 20 dimensions) with random weights, which take as much memory as trained ones; the file of the report is
planted (``report_scale.py``). One measurement a line of ``--out``: work, images, draws, seconds, peak_gib, file_gib.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

UNITS = 100  # z1 units whose noise correlations are stored
OUT = Path(__file__).parent / "results" / "posterior_scale.json"


@dataclass(frozen=True)
class Work:
    """One measurement."""

    work: str
    images: int
    draws: int


def plan() -> list[Work]:
    """Memory must not grow along each series; then the sizes asked for."""
    works = [Work("moments", images, 1000) for images in (250, 500, 1000)]
    works += [
        Work(work, n, 1000) for work in ("draws_nc", "draws_zarr", "read_nc", "read_zarr") for n in (500, 1000, 2000)
    ]
    works += [Work("moments", n, 8) for n in (8000, 64_000)] + [Work("report", n, 64) for n in (16_000, 64_000)]
    return works


def export(work: Work, folder: Path) -> Path:
    """Make a posterior file: ``moments`` (draws are those of the moments, with noise correlations) or ``draws_*`` (stored)."""
    import pyro_hvae as hvae

    vae = hvae.build("TDVAE20", seed=0)
    x = np.random.default_rng(0).standard_normal((work.images, 400), np.float32)
    path = folder / f"{work.work}-{work.images}.{'zarr' if work.work.endswith('zarr') else 'nc'}"
    options = (
        dict(moment_draws=work.draws, units=range(UNITS))
        if work.work == "moments"
        else dict(draws=work.draws, moment_draws=2)
    )
    hvae.export_posterior(vae, x, path=path, overwrite=True, receptive_fields=0, **options).close()
    return path


def read(work: Work, folder: Path) -> Path:
    """Mean and variance over all draws, of every image and dim, and k-hat's verdict."""
    from pyro_hvae import analysis

    kind = work.work.removeprefix("read_")
    path = folder / f"draws_{kind}-{work.images}.{kind}"
    with analysis.open_posterior(path, chunks=4096) as tree:
        z1 = tree["posterior"]["z1"]
        mean, variance = z1.mean(("chain", "draw")).values, z1.var(("chain", "draw")).values
        assert np.isfinite(mean).all() and (variance > 0).all()
        print(analysis.trust(tree).attrs["verdict"])
    return path


def report(work: Work, folder: Path) -> Path:
    """All analyses of a planted file with the noise correlations of 100 units, half of its images textures."""
    from report_scale import plant

    from pyro_hvae.report import analyse

    path = folder / f"planted-{work.images}.nc"
    if not path.exists():
        plant(path, "TDVAE20", work.images // 2, work.images // 2, seed=0)
    return analyse(path, folder / f"report-{work.images}", overwrite=True) and path


RUN: dict[str, Callable[[Work, Path], Path]] = {
    "moments": export, "draws_nc": export, "draws_zarr": export, "read_nc": read, "read_zarr": read, "report": report,
}  # fmt: skip


def measure(work: Work, folder: Path) -> dict[str, object]:
    """Do the work in this process."""
    started = time.perf_counter()
    path = RUN[work.work](work, folder)
    seconds = time.perf_counter() - started
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = sum(each.stat().st_size for each in files) / 2**30
    return asdict(work) | {"seconds": round(seconds, 1), "peak_gib": round(peak, 2), "file_gib": round(size, 2)}


def main() -> int:
    """Measure, print, save; exit status 1 where more than 4 GiB were needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="where the files go")
    parser.add_argument("--only", nargs="+", choices=RUN, default=list(RUN))
    parser.add_argument("--out", type=Path, default=OUT, help="measurements of other works stay (%(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(Work(**json.loads(arguments.one)), arguments.dir)))
        return 0
    arguments.dir.mkdir(parents=True, exist_ok=True)
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    for work in plan():
        if work.work not in arguments.only:
            continue
        command = [sys.executable, __file__, "--dir", str(arguments.dir), "--one", json.dumps(asdict(work))]
        line = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        print(line, flush=True)
        known = [row for row in known if Work(row["work"], row["images"], row["draws"]) != work] + [json.loads(line)]
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text("[\n" + ",\n".join(map(json.dumps, known)) + "\n]\n")
    return int(any(row["peak_gib"] > 4 for row in known))


if __name__ == "__main__":
    raise SystemExit(main())
