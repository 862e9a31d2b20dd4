"""Families of generated inputs: each case is made from a seed, read as a user would read it, and judged by what came of it.

A case is right where the result is the one of the intact input (``same``), or the one an independent rule gives; families of
which damage cannot be told from content (pixels of a picture) accept any result. Everything else has to be an
:class:`~pyro_hvae.errors.HVAEError` that names the file and says what to do.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import xarray as xr
from PIL import Image

import pyro_hvae as hvae
from pyro_hvae.stimuli import PatchData, natural_patches, read_pickle
from pyro_hvae.stimuli.readers import read_arrays, read_luminance
from pyro_hvae.storage.audit_file import open_audit
from pyro_hvae.storage.posterior_file import open_posterior
from pyro_hvae.training.recorded import fingerprint
from pyro_hvae.training.run_directory import Checkpoint, RunDirectory

Result = Any


@dataclass(frozen=True)
class Case:
    """One input: how it is read, and what may come of it."""

    read: Callable[[], Result]
    expected: Result = None
    """The result if there is one; None where any is right."""
    names: tuple[str, ...] = ()
    """One of them has to stand in the error; empty where no file is concerned."""
    what: str = ""


def digest(value: Any) -> str:
    """Of arrays, datasets, trees, mappings and plain values."""
    h = hashlib.blake2b(digest_size=12)

    def add(v: Any) -> None:
        if isinstance(v, xr.DataTree):
            for node in v.subtree:
                h.update(node.path.encode())
                add(node.to_dataset(inherit=False))
        elif isinstance(v, xr.Dataset):
            for name in sorted(v.variables, key=str):
                h.update(str(name).encode())
                add(v[name].values)
        elif isinstance(v, np.ndarray):
            h.update(repr(v.shape).encode() + str(v.dtype).encode())
            h.update(repr(v.tolist()).encode() if v.dtype.kind in "OUT" else np.ascontiguousarray(v).tobytes())
        elif isinstance(v, dict):
            for key in sorted(v, key=str):
                h.update(str(key).encode())
                add(v[key])
        elif isinstance(v, list | tuple):
            for each in v:
                add(each)
        else:
            h.update(repr(v).encode())

    add(value)
    return h.hexdigest()


# -- damage


def damage(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Content with one kind of damage."""
    n = len(content)
    kind = rng.choice(
        ["flip", "flip", "flip", "flips", "truncate", "zeros", "repeat", "swap", "insert", "empty", "head"]
    )
    new = bytearray(content)
    if kind == "flip":
        at = rng.randrange(n)
        new[at] ^= 1 << rng.randrange(8)
        kind = f"flip at {at}"
    elif kind == "flips":
        for _ in range(rng.randint(2, 12)):
            new[rng.randrange(n)] = rng.randrange(256)
    elif kind == "head":  # where formats keep their lengths
        for _ in range(rng.randint(1, 4)):
            new[rng.randrange(min(n, 600))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
    elif kind == "truncate":
        new = new[: rng.randrange(n)]
    elif kind == "zeros":
        at, length = rng.randrange(n), rng.choice([8, 64, 512, 4096])
        new[at : at + length] = bytes(len(new[at : at + length]))
    elif kind == "repeat":
        new = new + new[rng.randrange(n) :]
    elif kind == "swap":
        a, b, length = rng.randrange(n), rng.randrange(n), 32
        new[a : a + length], new[b : b + length] = new[b : b + length], new[a : a + length]
    elif kind == "insert":
        at = rng.randrange(n)
        new[at:at] = rng.randbytes(rng.randint(1, 64))
    elif kind == "empty":
        new = bytearray()
    return bytes(new), kind


WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 3, 10**12, 10**30, 1.5, 1e300, float("nan"), "", "x", "../etc", [], [1], [[]], ["a", None], {}, {"a": 1},
    {"class": "os.system"}, [[10**9]], [-5, 2], "0:1,", "os.system", "\u0000",
)  # fmt: skip


def rewritten(tree: Any, rng: random.Random) -> tuple[Any, str]:
    """JSON with one value replaced, removed, or added to."""
    new = json.loads(json.dumps(tree))
    node, path = new, []
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        path.append(key)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.75:
            node = node[key]
            continue
        break
    what = rng.random()
    if what < 0.2:
        del node[key]
    elif what < 0.3 and isinstance(node, dict):
        node[rng.choice(["class", "extra", "__class__", "device"])] = rng.choice(WRONG)
    else:
        node[key] = rng.choice(WRONG)
    return new, f"{path}"


# -- runs


def read_run(run: Path) -> Result:
    """Everything that commands read of a run."""
    vae, directory = hvae.load(run), RunDirectory.open(run)
    state = {name: t.numpy() for name, t in vae.state_dict().items()}
    transform = directory.transform()
    _ = directory.fit_config, directory.fingerprint
    return digest([state, directory.held_out(), directory.history(), transform and transform.to_dataset()])


def resumed(run: Path) -> Result:
    directory = RunDirectory.open(run)
    config = directory.fit_config
    found = hvae.fit(
        common.tiny_pair(), PATCHES, steps=6, batch=20, learning_rate=config.learning_rate, beta=1.0, device="cpu",
        compile=False, progress=False, out=run, resume=True, checkpoint_every=2, log_every=2,
    )  # fmt: skip
    return digest([{n: t.numpy() for n, t in found.vae.state_dict().items()}, found.history.drop_vars("seconds")])


PATCHES: PatchData


class Material:
    """Intact files of every kind, made once."""

    def __init__(self, folder: Path):
        global PATCHES
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        photographs = np.random.default_rng(0).gamma(2, size=(3, 40, 40))
        PATCHES = natural_patches(4, photographs, train=200, test=30)
        vae = common.tiny_pair()
        fits = dict(
            steps=4, batch=20, learning_rate=1e-3, beta=1.0, device="cpu", compile=False, progress=False, checkpoint_every=2,
            log_every=2,
        )  # fmt: skip
        self.run, self.other = folder / "run", folder / "other"
        hvae.fit(vae, PATCHES, **fits, out=self.run)
        wider = common.pair_of((7, 3), 1)
        hvae.fit(wider, PATCHES, **fits, out=self.other)
        self.files = {
            "posterior.nc": open_all(lambda p: hvae.export_posterior(vae, PATCHES, draws=2, moment_draws=2, path=p)),
            "posterior.zarr": open_all(lambda p: hvae.export_posterior(vae, PATCHES, moment_draws=2, path=p)),
            "patches.nc": lambda p: PATCHES.save(p),
            "audit.nc": open_all(
                lambda p: hvae.audit(
                    vae, PATCHES.test.isel(image=slice(2)), units=2, moment_draws=2, draws=2, resample=2, num_samples=4,
                    warmup=2, chains=2, path=p,
                )
            ),
        }  # fmt: skip
        for name, write in self.files.items():
            write(folder / name)
        pictures(folder, np.random.default_rng(1))
        bomb(folder / "bomb.npz")
        self.right = {name: self.read(folder / name) for name in self.files}
        self.right["run"] = read_run(self.run)
        copy = folder / "copy"
        shutil.copytree(self.run, copy)
        self.right["resumed"] = resumed(copy)
        shutil.rmtree(copy)

    @staticmethod
    def read(path: Path) -> Result:
        if path.name.startswith("patches"):
            data = PatchData.load(path)
            return digest([data.train, data.test, data.size, data.provenance, data.transform.to_dataset()])
        with (open_audit if path.name.startswith("audit") else open_posterior)(path) as tree:
            return digest(tree.load())


def open_all(write: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda path: write(path).close()


def bomb(path: Path) -> None:
    """An archive of a megabyte that unpacks to 1.5 GiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z, z.open("grey.npy", "w") as member:
        n = 3 * 2**29
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (n,)})
        for _ in range(n // 2**20):
            member.write(bytes(2**20))


def pictures(folder: Path, rng: np.random.Generator) -> None:
    """One file of every format that photographs are read from."""
    grey = (rng.random((24, 20)) * 255).astype(np.uint8)
    colour = (rng.random((24, 20, 3)) * 255).astype(np.uint8)
    for suffix in ("png", "jpg", "tif", "gif", "bmp", "pgm", "webp", "jp2"):
        Image.fromarray(colour if suffix in ("jpg", "webp") else grey).save(folder / f"grey.{suffix}")
    np.save(folder / "grey.npy", grey)
    np.savez_compressed(folder / "grey.npz", grey=grey)
    xr.Dataset({"grey": (("y", "x"), grey.astype(float))}).to_netcdf(folder / "grey.nc", engine="netcdf4")
    import pickle

    (folder / "grey.pkl").write_bytes(pickle.dumps({"train_images": np.ones((5, 16)), "test_images": np.ones((2, 16))}))


PICTURES = ("png", "jpg", "tif", "gif", "bmp", "pgm", "webp", "jp2", "npy", "npz", "nc", "pkl")


def read_picture(path: Path) -> Result:
    if path.suffix in (".npy", ".npz", ".nc"):
        return {name: np.asarray(a).sum() for name, a in read_arrays(path).items()}
    return read_pickle(path) if path.suffix == ".pkl" else read_luminance(path)


# -- families


def _damaged_file(material: Material, name: str, rng: random.Random, folder: Path) -> Case:
    target = folder / name
    content, what = damage((material.folder / name).read_bytes(), rng)
    target.write_bytes(content)
    return Case(lambda: material.read(target), material.right[name], (str(target),), what)


def without_seal(material: Material, rng: random.Random, folder: Path) -> Case:
    """A posterior file as an earlier version or another program wrote it: damage to its numbers cannot be told."""
    target = folder / "posterior.nc"
    content = (material.folder / "posterior.nc").read_bytes()
    content, what = damage(content[: content.rindex(b"\npyro_hvae seal")], rng)
    target.write_bytes(content)
    return Case(lambda: material.read(target), None, (str(target),), what)


def damaged_run(material: Material, rng: random.Random, folder: Path) -> Case:
    """Bytes of one file of a run."""
    run = folder / "run"
    shutil.copytree(material.run, run)
    newest = max(run.glob("checkpoints/*"))
    file = rng.choice(
        [run / "config.json", run / "heldout.nc", run / "history.nc", run / "transform.nc", newest, newest]
    )
    if rng.random() < 0.05 and file != newest:  # without the newest checkpoint it is the run as it was before
        file.unlink()
        what = "removed"
    else:
        content, what = damage(file.read_bytes(), rng)
        file.write_bytes(content)
    if rng.random() < 0.1:
        return Case(lambda: resumed(run), material.right["resumed"], (str(run),), f"{file.name} {what}, resumed")
    return Case(lambda: read_run(run), material.right["run"], (str(run),), f"{file.name} {what}")


def configuration(material: Material, rng: random.Random, folder: Path) -> Case:
    """config.json with a field of another kind, size or version, or without it."""
    run = folder / "run"
    shutil.copytree(material.run, run)
    config, what = rewritten(json.loads((run / "config.json").read_text()), rng)
    (run / "config.json").write_text(json.dumps(config))
    read, right = (resumed, "resumed") if rng.random() < 0.2 else (read_run, "run")
    # Made to look as if the run had begun so: what is read of it then is right by definition.
    if rng.random() < 0.5 and resigned(run):
        return Case(lambda: read(run), None, (str(run),), f"{what}, checkpoints made to fit")
    return Case(lambda: read(run), material.right[right], (str(run),), what)


def resigned(run: Path) -> bool:
    """Make the checkpoints of a run agree with its ``config.json``, as whoever changes it on purpose would."""
    try:
        mark = fingerprint(json.loads((run / "config.json").read_text()))
    except (KeyError, AttributeError, TypeError):
        return False
    for file in run.glob("checkpoints/*"):
        file.write_bytes(replace(Checkpoint.read(file), configuration=mark).bytes())
    return True


def mixed_run(material: Material, rng: random.Random, folder: Path) -> Case:
    """A run with a file of another run, of another shape."""
    run = folder / "run"
    shutil.copytree(material.run, run)
    names = [
        "config.json",
        "checkpoints/step-00000004.safetensors",
        "checkpoints/step-00000002.safetensors",
        "heldout.nc",
    ]
    name = rng.choice(names)
    to = rng.choice([name, rng.choice(names)])
    shutil.copy((material.other if rng.random() < 0.7 else run) / name, run / "between")
    shutil.move(run / "between", run / to)
    read, right = (resumed, "resumed") if rng.random() < 0.2 else (read_run, "run")
    return Case(lambda: read(run), material.right[right], (str(run),), f"{name} as {to}")


def zarr_store(material: Material, rng: random.Random, folder: Path) -> Case:
    """One file of a zarr store damaged or removed."""
    store = folder / "posterior.zarr"
    shutil.copytree(material.folder / "posterior.zarr", store)
    file = rng.choice(sorted(p for p in store.rglob("*") if p.is_file()))
    if file.name.startswith(".z") and rng.random() < 0.5:
        changed, what = rewritten(json.loads(file.read_bytes()) or {"a": 1}, rng)
        file.write_text(json.dumps(changed))
    elif rng.random() < 0.15 or not file.stat().st_size:
        file.unlink()
        what = "removed"
    else:
        content, what = damage(file.read_bytes(), rng)
        file.write_bytes(content)
    where = f"{file.relative_to(store)} {what}"
    return Case(lambda: material.read(store), material.right["posterior.zarr"], (str(store),), where)


def picture(material: Material, rng: random.Random, folder: Path) -> Case:
    """A photograph or file of arrays."""
    suffix = rng.choice(PICTURES)
    target = folder / f"grey.{suffix}"
    content, what = damage((material.folder / target.name).read_bytes(), rng)
    target.write_bytes(content)
    return Case(lambda: read_picture(target), None, (str(target),), f"{suffix} {what}")


def promise(material: Material, rng: random.Random, folder: Path) -> Case:
    """Headers that promise far more than there is, and decompression bombs."""
    kind = rng.choice(["png", "npy", "npz", "nc", "tif", "posterior.nc", "posterior.zarr", "safetensors"])
    n = rng.choice([2**17, 2**19, 2**21, 2**24])
    target = folder / f"grey.{kind}" if "." not in kind else folder / kind
    if kind == "png":
        raw = zlib.compress(bytes(2**24), 9)
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", n, n, 8, 0, 0, 0, 0)), (b"IDAT", raw), (b"IEND", b"")]
        body = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
        target.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    elif kind in ("npy", "npz"):
        from io import BytesIO

        head = BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (n, n)})
        if kind == "npy":
            target.write_bytes(head.getvalue() + bytes(64))
        else:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as z:
                z.writestr("grey.npy", head.getvalue() + bytes(2**20))
            if rng.random() < 0.5:
                shutil.copy(material.folder / "bomb.npz", target)
    elif kind in ("nc", "posterior.nc"):
        import netCDF4

        with netCDF4.Dataset(target, "w") as file:
            group = file
            if kind == "posterior.nc":
                file.setncatts({"schema": "pyro_hvae.posterior", "schema_version": "1"})
                group = file.createGroup("observed_data")
            group.createDimension("image", n)
            group.createDimension("pixel", n)
            group.createVariable("x", "f8", ("image", "pixel"), chunksizes=(16, 16))
    elif kind == "posterior.zarr":
        shutil.copytree(material.folder / "posterior.zarr", target)
        for name in (".zmetadata", "observed_data/x/.zarray"):
            text = (target / name).read_text()
            found = json.loads(text)
            array = found["metadata"]["observed_data/x/.zarray"] if name == ".zmetadata" else found
            array["shape"] = [n, n]
            array["chunks"] = [n, n] if n > 2**19 else array["chunks"]
            (target / name).write_text(json.dumps(found))
    elif kind == "tif":
        content = bytearray((material.folder / "grey.tif").read_bytes())
        at = content.index(struct.pack("<HHI", 256, 4, 1)) if struct.pack("<HHI", 256, 4, 1) in content else None
        for tag in (256, 257):  # width, height
            for form in ("<HHI", "<HHI"):
                for type_ in (3, 4):
                    key = struct.pack(form, tag, type_, 1)
                    if key in content:
                        at = content.index(key)
                        content[at + 2 : at + 12] = struct.pack("<HII", 4, 1, n)
        target.write_bytes(content)
    else:
        run = folder / "run"
        shutil.copytree(material.run, run)
        header = json.dumps({"vae.a": {"dtype": "F32", "shape": [n, n], "data_offsets": [0, 4 * n * n]}}).encode()
        newest = max(run.glob("checkpoints/*"))
        newest.write_bytes(struct.pack("<Q", rng.choice([len(header), 2**60])) + header)
        return Case(lambda: read_run(run), "none", (str(run),), f"{kind} {n}")
    read = read_picture if "." not in kind else material.read
    # An .npy file is mapped, not read: what it promises is compared with what it holds.
    return Case(lambda: read(target), "none", (str(target),), f"{kind} {n}")
