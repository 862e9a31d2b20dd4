"""Files to linear luminance, with an error that names the file for whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.storage.guards import check_promise, check_promises

GAMMAS = ("auto", "srgb", "linear")
CHANNELS = ("luminance", "red", "green", "blue")
IML_SUFFIXES = (".iml", ".imc")
IML_SHAPE = (1024, 1536)
IMAGE_SUFFIXES = (
    *IML_SUFFIXES, ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm", ".pnm", ".jp2", ".webp",
)  # fmt: skip
_ANEW = "save it anew, or leave it out"
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear sRGB primaries (ITU-R BT.709)


def read_luminance(path: Path, gamma: str = "auto", channel: str = "luminance") -> np.ndarray:
    """Linear luminance (y, x) float32 of an image file: van Hateren `.iml`, or of the kinds in `IMAGE_SUFFIXES`.

    Upright, as its orientation tag says. Refused, with the reason: files of several pages or frames, colours that are not RGB
    (CMYK, LAB, YCbCr), black and white, transparency.
    """
    if path.suffix.lower() in IML_SUFFIXES:
        return to_luminance(read_iml(path), "linear" if gamma == "auto" else gamma, str(path), channel)
    try:
        pixels = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _read_pillow(path)
    except HVAEError:
        raise
    except FileNotFoundError:
        raise HVAEError(f"{path}: no such file.") from None
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error on damaged files
        if type(error).__name__ == "DecompressionBombError":
            raise HVAEError(f"{path}: too large to be read ({error}); crop it, or make it smaller.") from error
        raise HVAEError(
            f"{path}: not an image, or a damaged one ({type(error).__name__}: {error}); leave it out, or copy it again."
        ) from error
    return to_luminance(pixels, gamma, str(path), channel)


def _read_pillow(path: Path) -> np.ndarray:
    """Pixels of the one frame of an image, upright: grey (y, x), or colour (y, x, channel) with opacity where it has any."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if image.format != "MPO":  # a JPEG that carries previews
            _check_pages(path, getattr(image, "n_frames", 1))
        if image.mode not in ("L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "1", "I", "F") and (
            not image.mode.startswith("I;16")
        ):
            raise _no_rgb(path, image.mode)
        _check_levels(path, image.mode == "1")
        upright = ImageOps.exif_transpose(image)
        assert upright is not None
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
        elif upright.mode in ("P", "RGBX"):
            upright = upright.convert("RGB")
        return np.asarray(upright)


def _read_tiff(path: Path) -> np.ndarray:
    """As `_read_pillow`, of the one page of a TIFF file."""
    import tifffile
    from tifffile import PHOTOMETRIC

    with tifffile.TiffFile(path) as file:
        pages = [page for page in (frame.aspage() for frame in file.pages) if not page.is_reduced]  # no previews
        first = pages[0]
        _check_pages(path, max(len(pages), file.series[0].size // max(first.size, 1), first.imagedepth))
        check_promise(first.size * (first.dtype or np.dtype("u1")).itemsize, path.stat().st_size, path, _ANEW)
        kind = PHOTOMETRIC(first.photometric)
        if kind not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE):
            raise _no_rgb(path, "CMYK" if kind == PHOTOMETRIC.SEPARATED else kind.name)
        pixels = first.asarray().squeeze()
        _check_levels(path, first.bitspersample == 1)
        if first.samplesperpixel > 1 and first.planarconfig == 2:
            pixels = np.moveaxis(pixels, 0, -1)
        if kind == PHOTOMETRIC.MINISWHITE:
            if pixels.dtype.kind != "u":
                raise HVAEError(
                    f"{path}: white is its smallest value, and its pixels are {pixels.dtype}; save it as RGB."
                )
            pixels = np.iinfo(pixels.dtype).max - pixels
        if kind == PHOTOMETRIC.PALETTE:
            assert first.colormap is not None
            pixels = (first.colormap.T[pixels] >> 8).astype(np.uint8)
        tag = first.tags.get(274)
        return _upright(pixels, int(tag.value) if tag is not None else 1)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the orientation of TIFF 6.0 and EXIF: where row 0 and column 0 of the file are seen."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _check_pages(path: Path, pages: int) -> None:
    if pages > 1:
        raise HVAEError(f"{path}: holds {pages} pages or frames; save the one that is meant as a file of its own.")


def _check_levels(path: Path, binary: bool) -> None:
    if binary:
        raise HVAEError(f"{path}: is black and white, one bit a pixel, so it has no luminances; leave it out.")


def _no_rgb(path: Path, colours: str) -> HVAEError:
    return HVAEError(
        f"{path}: its colours are {colours}, not grey or RGB; convert it to sRGB with its colour profile first."
    )


def read_iml(path: Path) -> np.ndarray:
    """Van Hateren image (1024, 1536): big-endian uint16, no header. A file of another size is an error."""
    expected = IML_SHAPE[0] * IML_SHAPE[1] * 2
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HVAEError(f"{path}: cannot be read ({error}).") from error
    if len(data) != expected:
        raise HVAEError(
            f"{path}: {len(data):,} bytes; a van Hateren image has {expected:,} "
            f"({IML_SHAPE[0]} rows × {IML_SHAPE[1]} columns × 2 bytes, no header). Is it truncated, or cropped?"
        )
    return np.frombuffer(data, ">u2").reshape(IML_SHAPE).astype(np.uint16)


def to_luminance(pixels: np.ndarray, gamma: str, origin: str, channel: str = "luminance") -> np.ndarray:
    """Linear luminance (y, x) float32 of grey (y, x) or colour (y, x, channel) pixels.

    `gamma="auto"` undoes the sRGB curve of 8-bit images and of 16-bit colour images, and takes 16-bit grey and floating
    point values as linear; `"srgb"` and `"linear"` decide it for all. sRGB luminance is in parts of white, linear
    luminance in the unit of the file. An alpha channel must be opaque. `channel` takes one linear primary of a colour
    image instead of its luminance. `origin` names the image in errors.
    """
    if gamma not in GAMMAS:
        raise unknown("gamma", gamma, GAMMAS)
    if channel not in CHANNELS:
        raise unknown("channel", channel, CHANNELS)
    pixels = np.asarray(pixels)
    if pixels.dtype.kind not in "uif":
        raise HVAEError(f"{origin}: pixels of type {pixels.dtype}; expected whole or floating-point numbers.")
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        opaque = 1.0 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
        if not (pixels[..., -1] == opaque).all():
            raise HVAEError(f"{origin}: has transparent pixels, which have no luminance; flatten it first.")
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise HVAEError(f"{origin}: shape {pixels.shape}; expected grey (y, x) or colour (y, x, 3).")
    if not np.isfinite(pixels).all():
        raise HVAEError(f"{origin}: holds NaN or infinite pixels; crop them off or fill them in first.")
    if pixels.size and pixels.min() < 0:
        raise HVAEError(f"{origin}: holds negative pixels (down to {pixels.min()}), so they are not luminances.")
    coded = pixels.dtype == np.uint8 or (pixels.ndim == 3 and pixels.dtype.kind in "ui")
    decode = gamma == "srgb" or (gamma == "auto" and coded)
    linear = _decode_srgb(pixels, origin) if decode else pixels.astype(np.float32)
    if linear.ndim == 2:
        if channel != "luminance":
            raise HVAEError(f"{origin}: is grey, so it has no {channel} channel; leave channel='luminance'.")
        return linear
    return linear @ _LUMINANCE if channel == "luminance" else linear[..., CHANNELS.index(channel) - 1]


def _decode_srgb(pixels: np.ndarray, origin: str) -> np.ndarray:
    """IEC 61966-2-1: sRGB values to linear ones in [0, 1]."""
    white = {"uint8": 255, "uint16": 65535}.get(pixels.dtype.name, 1 if pixels.dtype.kind == "f" else None)
    if white is None or pixels.max(initial=0) > white:
        raise HVAEError(f"{origin}: sRGB needs 8- or 16-bit pixels, or floating point in [0, 1]; give gamma='linear'.")
    v = pixels.astype(np.float32) / white
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4).astype(np.float32)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npy` (named after the file), `.npz` or `.nc` file, by name. Nothing is unpickled."""
    try:
        if path.suffix.lower() == ".npy":
            return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                promised = sum(member.file_size for member in archive.zip.infolist())
                check_promise(promised, path.stat().st_size, path, _ANEW)
                return {name: archive[name] for name in archive.files}
        return _read_netcdf(path)
    except FileNotFoundError:
        raise HVAEError(f"{path}: no such file.") from None
    except HVAEError:
        raise
    except Exception as error:  # zip, numpy, netCDF and HDF5 raise many kinds on damaged files
        raise HVAEError(
            f"{path}: not a readable array file ({type(error).__name__}: {error}); copy it again, or save it anew."
        ) from error


def _read_netcdf(path: Path) -> dict[str, Any]:
    import xarray as xr

    with xr.open_dataset(path, engine="netcdf4") as dataset:
        check_promises(dataset, path, _ANEW)
        schema = dataset.attrs.get("schema", "")
        if schema:
            raise HVAEError(f"{path}: is a {schema} file, not a file of photographs; read it with PatchData.load.")
        return {str(name): variable.values for name, variable in dataset.data_vars.items()}
