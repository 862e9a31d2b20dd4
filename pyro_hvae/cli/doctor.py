"""``pyro-hvae doctor``: what is installed, what this machine has, and what would be slow here and why."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: What an extra brings, and what cannot be done without it.
EXTRAS = {
    "plenoptic": ("textures", "Portilla–Simoncelli textures"),
    "tensorboard": ("logging", "hvae.TensorBoardLog"),
    "myst_nb": ("docs", "make docs"),
    "shtab": ("", "pyro-hvae completion"),
}
OPENMP = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what is installed, what this machine has, and what would be slow and why",
        description="Check the installation. Exit code 1 where something does not work, 0 where it is at most slow.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; 1 where something is broken."""
    found = {"system": system(), "threads": threads(), "compiler": compiler(), "device": device()}
    print(f"pyro_hvae {version('pyro-hvae')}, Python {platform.python_version()}, {found['system']['name']}")
    for name, number in packages().items():
        print(f"  {name:16s} {number}")
    cores, memory = found["system"]["cores"], found["system"]["memory"]
    print(f"cores      {cores} to be used, {memory:.0f} GiB of memory free")
    setting = found["threads"]["setting"] or "not set"
    print(f"threads    {found['threads']['torch'] or 'unknown (no torch)'}; OMP_NUM_THREADS {setting}")
    problem = found["compiler"]["problem"]
    print(f"compiler   {found['compiler']['path'] or 'none'}{': ' + problem if problem else ''}")
    print(f"device     {found['device']['name']}")
    for module, (extra, what) in EXTRAS.items():
        if find_spec(module) is None:
            name = f"'pyro-hvae[{extra}]'" if extra else module
            print(f"missing    {module}: without it no {what} (pip install {name})")
    broken, slow = problems(found), slowness(found)
    for line in broken:
        print(f"broken     {line}")
    for line in slow:
        print(f"slow       {line}")
    if not broken and not slow:
        print("nothing here is broken, and nothing needlessly slow")
    return int(bool(broken))


def packages() -> dict[str, str]:
    """Versions of what numbers depend on."""
    from pyro_hvae.storage.provenance import versions

    return {name: number for name, number in versions().items() if name not in ("python", "pyro-hvae")}


def system() -> dict[str, Any]:
    """Operating system, cores that this process may use, free memory in GiB, and whether the processor multiplies bfloat16."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    return {
        "name": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "memory": psutil.virtual_memory().available / 2**30,
        "bfloat16": any(flag in flags for flag in ("avx512_bf16", "amx_bf16")),
    }


def threads() -> dict[str, Any]:
    """Threads of a torch operation, and what the environment says of them."""
    found: dict[str, Any] = {"setting": os.environ.get("OMP_NUM_THREADS"), "torch": None}
    if find_spec("torch") is not None:
        import torch

        found["torch"] = torch.get_num_threads()
    return found


def compiler() -> dict[str, str]:
    """The C++ compiler that PyTorch's own would call, and why it cannot be used, tried on a program with OpenMP."""
    path = next(
        (p for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name and (p := shutil.which(name))), ""
    )
    if not path:
        return {"path": "", "problem": ""}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.cpp"
        source.write_text(OPENMP)
        try:
            done = subprocess.run(
                [path, "-fopenmp", str(source), "-o", str(Path(folder) / "try")],
                capture_output=True,
                text=True,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"path": path, "problem": f"cannot be run ({error})"}
    said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:100])
    return {"path": path, "problem": "" if done.returncode == 0 else f"cannot compile a program with OpenMP: {said}"}


def device() -> dict[str, Any]:
    """What ``device="auto"`` is."""
    if find_spec("torch") is None:
        return {"name": "none: torch is not installed; posterior files can be analysed, nothing trained", "cuda": False}
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        return {"name": name, "cuda": True}
    built = "built for CUDA, no device found" if torch.version.cuda else "built without CUDA"
    return {"name": f"cpu (torch {built})", "cuda": False}


def problems(found: dict[str, dict[str, Any]]) -> list[str]:
    """What does not work."""
    lines = []
    for name in ("numpy", "scipy", "xarray", "arviz", "scikit-learn", "scikit-image", "netCDF4"):
        try:
            version(name)
        except PackageNotFoundError:
            lines.append(f"{name} is not installed: pip install {name}")
    return lines


def slowness(found: dict[str, dict[str, Any]]) -> list[str]:
    """What would be slow, why, and what to do."""
    lines: list[str] = []
    cores = found["system"]["cores"]
    if find_spec("torch") is None:
        return lines
    if not found["compiler"]["path"] or found["compiler"]["problem"]:
        lines.append(
            "training steps are not compiled: that needs a C++ compiler with OpenMP (Debian: apt install g++; conda: "
            "cxx-compiler)"
        )
    used = found["threads"]["torch"]
    if used and used > cores:
        lines.append(f"torch takes {used} threads where {cores} cores may be used: export OMP_NUM_THREADS={cores}")
    if used and used < cores:
        lines.append(
            f"torch takes {used} of {cores} cores (OMP_NUM_THREADS), as it should be where several runs share the machine; "
            f"where one runs alone: export OMP_NUM_THREADS={cores}"
        )
    if not found["device"]["cuda"]:
        lines.append(
            "no GPU: large systems (40×40 pixels) and long runs gain most from one; --recipe fast with 20×20 pixels needs none"
        )
    if not found["device"]["cuda"] and not found["system"]["bfloat16"]:
        lines.append("--precision bfloat16: the processor has no bfloat16 products, so it gains nothing here")
    if found["system"]["memory"] < 4:
        lines.append(f"{found['system']['memory']:.1f} GiB of memory free: cut fewer patches (--train-patches 50000)")
    return lines
