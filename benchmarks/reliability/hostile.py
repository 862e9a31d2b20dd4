"""Files that want to run something or to write elsewhere: nothing may be executed, nothing written but in the output folder.

    python benchmarks/reliability/hostile.py

Each file is read in a forked child that Python's audit hooks watch: a program started, code compiled or unpickled, and a file
opened for writing outside the output folder are noted; afterwards the surroundings are compared. Results:
``benchmarks/results/reliability.json``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import generators as g
import numpy as np

import pyro_hvae as hvae
from pyro_hvae.cli import main as command_line
from pyro_hvae.errors import HVAEError
from pyro_hvae.report import analyse
from pyro_hvae.report.registry import ANALYSES
from pyro_hvae.stimuli import PatchData, natural_patches

RUNS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "pickle.find_class", "ctypes.dlopen")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "os.link", "os.symlink", "os.chmod")


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def hostile_pickles(canary: str) -> dict[str, bytes]:
    evil = Evil(f"touch {canary}")
    images = {"train_images": np.ones((5, 16)), "test_images": np.ones((2, 16))}
    found = {f"reduce, protocol {p}": pickle.dumps(evil, p) for p in range(6)}
    found |= {f"beside arrays, protocol {p}": pickle.dumps(images | {"train_labels": evil}, p) for p in range(6)}
    found["exec"] = b"cbuiltins\nexec\n(S'open(%r, \"w\")'\ntR." % canary.encode()
    found["inst"] = b"(S'touch %s'\nios\nsystem\n." % canary.encode()
    found["numpy's own"] = b"cnumpy.testing._private.utils\nruncode\n(S'x'\ntR."
    found["attribute of a global"] = b"cnumpy\nndarray\n}S'__reduce__'\nI1\nsb."
    found["persistent id"] = b"Pos.system\n."
    found["extension"] = b"\x82\x01."
    found["memo"] = b"\x80\x04" + b"N" + b"r\xff\xff\xff\x7f" + b"."
    buffer = io.BytesIO()
    np.save(buffer, np.array([evil], object), allow_pickle=True)
    found["npy"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez(buffer, grey=np.array([evil], object))
    found["npz"] = buffer.getvalue()
    return found


def write_store(folder: Path, material: g.Material, change: Callable[[dict[str, Any]], None], seal: bool) -> Path:
    store = folder / "posterior.zarr"
    shutil.copytree(material.folder / "posterior.zarr", store)
    for name in (".zmetadata", "observed_data/x/.zarray"):
        found = json.loads((store / name).read_text())
        change(found["metadata"]["observed_data/x/.zarray"] if name == ".zmetadata" else found)
        (store / name).write_text(json.dumps(found))
    if not seal:
        (store / ".pyro_hvae.seal").unlink(missing_ok=True)
    return store


def trials(material: g.Material, folder: Path) -> dict[str, Callable[[Path], object]]:
    """What is read, by name; each is given a folder of its own. ``out`` in it may be written."""
    canary = str(folder / "canary")
    found: dict[str, Callable[[Path], object]] = {}
    for name, content in hostile_pickles(canary).items():

        def read(here: Path, content: bytes = content, name: str = name) -> object:
            path = here / f"images.{name if name in ('npy', 'npz') else 'pkl'}"
            path.write_bytes(content)
            return natural_patches(4, path, train=5, test=2)

        found[f"pickle: {name}"] = read

    def zarr(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], object]:
        return lambda here: material.read(write_store(here, material, change, False))

    codec = {"id": "pickle", "protocol": 5}
    found["zarr: pickle as filter"] = zarr(lambda a: a.update(filters=[codec]))
    found["zarr: pickle as compressor"] = zarr(lambda a: a.update(compressor=codec))
    found["zarr: pickled objects"] = zarr(lambda a: a.update(dtype="|O", filters=[codec], compressor=None))
    found["zarr: unknown codec"] = zarr(lambda a: a.update(compressor={"id": "os.system"}))

    for part, value in {
        "model": {"class": "os.system"}, "guide": {"class": "builtins.eval"}, "class": "subprocess.Popen",
        "preset": "../../../etc/passwd", "dtype": "os.system",
    }.items():  # fmt: skip
        found[f"config.json: vae.{part}"] = _configured(material, lambda c, p=part, v=value: c["vae"].update({p: v}))
    for part, value in {
        "objective": {"class": "os.system", "num_particles": 1, "gradient": "standard", "beta": {}},
        "fit": {"steps": "__import__('os')", "beta": {}, "learning_rate": "1"},
        "starts": [{"start": "os.system"}],
        "data": {
            "train": "",
            "images": 1,
            "provenance": {"kind": "natural", "source": "/etc/passwd", "train": 1, "test": 1},
        },
    }.items():
        found[f"config.json: {part}"] = _configured(material, lambda c, p=part, v=value: c.update({p: v}))

    def named_outside(here: Path) -> object:
        """Labels, sites and provenance that are paths and markup."""
        names = ["../../../../evil", "/tmp/evil", "<script>alert(1)</script>", "a/../../b", ""]
        data = g.PATCHES
        test = data.test.assign_coords(family=("image", np.resize(names, data.test.sizes["image"])))
        hostile = PatchData(
            data.train, test, data.transform, 4, {"kind": "<script>alert(2)</script>", "source": "../../x"}
        )
        hostile.save(here / "<script>.nc")
        vae = common.tiny_pair()
        vae.preset = "../../<script>alert(3)</script>"
        path = here / "<script>alert(4).nc"
        hvae.export_posterior(vae, PatchData.load(here / "<script>.nc"), draws=2, path=path).close()
        for analysis in ANALYSES.keys() - {
            "bound_terms",
            "texture_decoding",
            "texture_selectivity",
            "active_dimensions",
        }:
            del ANALYSES[analysis]
        analyse(path, here / "out")
        page = (here / "out" / "report.html").read_text()
        if "<script>alert" in page:
            raise AssertionError("markup of labels is in the page as it is")
        return None

    found["posterior file: labels as paths and markup"] = named_outside

    def variables(here: Path) -> object:
        import netCDF4

        with netCDF4.Dataset(here / "p.nc", "w") as file:
            file.setncatts(
                {"schema": "pyro_hvae.patches", "schema_version": "1", "size": 4, "provenance": '{"a": "os.system"}'}
            )
            for name in ("train", "test"):
                group = file.createGroup(name)
                group.createDimension("image", 2)
                kind = group.createVLType(np.int32, "vlen")
                group.createVariable("x", kind, ("image",))[:] = np.array(
                    [np.ones(3, np.int32), np.ones(2, np.int32)], object
                )
        return PatchData.load(here / "p.nc")

    found["netCDF: types of variable length"] = variables

    def tensors(here: Path) -> object:
        from safetensors.numpy import save

        run = here / "run"
        shutil.copytree(material.run, run)
        for file in run.glob("checkpoints/*"):
            meta = {
                "pyro_hvae": json.dumps(
                    {"schema": "pyro_hvae.checkpoint", "schema_version": 1, "step": "__import__('os')"}
                )
            }
            file.write_bytes(save({"../../evil": np.ones(3, np.float32)}, metadata=meta))
        return hvae.load(run)

    found["safetensors: names as paths"] = tensors

    def unpickled(here: Path) -> object:
        run = here / "run"
        shutil.copytree(material.run, run)
        for file in run.glob("checkpoints/*"):
            file.write_bytes(pickle.dumps(Evil(f"touch {canary}")))
        (run / "heldout.nc").write_bytes(pickle.dumps(Evil(f"touch {canary}")))
        return hvae.load(run)

    found["safetensors: a pickle under the name"] = unpickled

    def sweep(here: Path) -> object:
        out = here / "out"
        out.mkdir()
        record = {
            "schema": "pyro_hvae.sweep",
            "schema_version": 1,
            "settings": {"preset": "../../x"},
            "axes": {"../../a": [1]},
        }
        (out / "sweep.json").write_text(json.dumps(record))
        return hvae.sweep({"preset": "TDVAE20", "steps": 1}, {"seed": [0]}, out=out, data=g.PATCHES, progress=False)

    found["sweep.json: axes as paths"] = sweep
    for name, arguments in {
        "train --resume": ["train", "--resume", "--out", "{run}"],
        "export": ["export", "{run}", "--out", "{out}/p.nc", "--textures", "none"],
        "evidence": ["evidence", "{run}", "--limit", "2", "--particles", "5"],
    }.items():

        def run_command(here: Path, arguments: list[str] = arguments) -> object:
            (here / "out").mkdir()
            _configured(material, lambda c: c["vae"]["model"].update({"class": "os.system"}), keep=True)(here)
            code = command_line([a.format(run=here / "run", out=here / "out") for a in arguments])
            raise HVAEError("refused") if code == 2 else AssertionError(f"ends with {code}")

        found[f"command: {name}"] = run_command
    return found


def _configured(
    material: g.Material, change: Callable[[dict[str, Any]], object], keep: bool = False
) -> Callable[[Path], object]:
    def read(here: Path) -> object:
        run = here / "run"
        shutil.copytree(material.run, run)
        config = json.loads((run / "config.json").read_text())
        change(config)
        (run / "config.json").write_text(json.dumps(config))
        g.resigned(run)
        return None if keep else (g.read_run(run), g.resumed(run))

    return read


def tried(read: Callable[[Path], object], folder: Path, verdict: Path) -> None:
    """In a child: read under watch and write down what came of it."""
    here = folder / "here"
    here.mkdir()
    noted: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(RUNS):
            noted.append(f"{event} {arguments!r:.80}")
        elif (
            event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            if not _inside(arguments[0], folder):
                noted.append(f"open for writing {arguments[0]}")
        elif (
            event.startswith(CHANGES)
            and isinstance(arguments[0], str | Path)
            and not _inside(str(arguments[0]), folder)
        ):
            noted.append(f"{event} {arguments!r:.80}")

    sys.addaudithook(watch)
    try:
        read(here)
        outcome = "read, as nothing in it was run"
    except HVAEError as error:
        outcome = f"refused: {str(error).replace(str(folder), '…')[:200]}"
    except BaseException as error:
        outcome = f"fault: {type(error).__name__}: {error}"
    outside = sorted(p.name for p in folder.iterdir() if p.name != "here")
    noted += [f"made {name}" for name in outside if name != "verdict"]
    verdict.write_text(json.dumps({"outcome": outcome, "noted": noted}))


def _inside(path: str, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(folder) or path == os.devnull or "matplotlib" in path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as base:
        material = g.Material(Path(base) / "material")
        known = {row["trial"] for row in common.recorded("hostile", arguments.results)}
        for number, name in enumerate(trials(material, Path(base))):
            if name in known:
                continue
            folder = Path(base) / str(number)
            folder.mkdir()
            read = trials(material, folder)[name]
            pid = common.child(lambda r=read, f=folder: tried(r, f, f / "verdict"), Path(base) / "log")
            code = common.wait(pid, 400)
            row = {
                "trial": name,
                **(json.loads((folder / "verdict").read_text()) if code == 0 else {"outcome": f"{code}"}),
            }
            row["ok"] = code == 0 and not row["noted"] and not row["outcome"].startswith("fault")
            common.record("hostile", row, arguments.results)
            print(row, flush=True)


if __name__ == "__main__":
    main()
