"""Image files of every mode and layout, against the reading by Pillow (colour management by its own conversion) or by hand."""

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.readers import IMAGE_SUFFIXES, read_luminance, to_luminance

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 40), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
OPAQUE = np.full((30, 40, 1), 255, np.uint8)
HOLED = np.where(np.arange(1200).reshape(30, 40, 1) == 7, 0, 255).astype(np.uint8)


def same(path, pixels):
    np.testing.assert_allclose(read_luminance(path), to_luminance(pixels, "auto", ""), rtol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_orientations(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    options = {"quality": 95} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(COLOUR).save(path, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert upright.shape[:2] == ((40, 30) if orientation > 4 else (30, 40))
    same(path, upright)


def test_the_orientation_of_a_tiff_that_tifffile_wrote(tmp_path):
    for orientation, turns in ((1, 0), (3, 2), (6, -1), (8, 1)):
        tifffile.imwrite(tmp_path / "a.tif", GREY, extratags=[(274, "H", 1, orientation, True)])
        same(tmp_path / "a.tif", np.rot90(GREY, turns))


MODES = {
    "L": Image.fromarray(GREY),
    "RGB": Image.fromarray(COLOUR),
    "LA": Image.fromarray(np.concatenate([GREY[..., None], OPAQUE], -1), "LA"),
    "RGBA": Image.fromarray(np.concatenate([COLOUR, OPAQUE], -1), "RGBA"),
    "P": Image.fromarray(COLOUR).quantize(64),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_modes_that_have_a_luminance(tmp_path, mode, suffix):
    image, path = MODES[mode], tmp_path / f"a.{suffix}"
    if (mode, suffix) in (("LA", "bmp"),):
        return
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    grey = suffix != "webp" and mode in ("L", "LA")
    same(path, np.asarray(Image.open(path).convert("L" if grey else "RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits(tmp_path, suffix):
    pixels = RNG.integers(0, 60000, (30, 40)).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    same(tmp_path / f"a.{suffix}", pixels)
    colour = RNG.integers(0, 60000, (30, 40, 3)).astype(np.uint16)
    if suffix == "tif":
        tifffile.imwrite(tmp_path / "b.tif", colour, photometric="rgb")
        same(tmp_path / "b.tif", colour)


def test_floating_point_and_planar_tiff(tmp_path):
    for pixels in (RNG.random((30, 40), np.float32), RNG.random((30, 40, 3), np.float32)):
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
        same(tmp_path / "a.tif", pixels)
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate")
    same(tmp_path / "b.tif", COLOUR)
    tifffile.imwrite(tmp_path / "c.tif", 255 - GREY, photometric="miniswhite")
    same(tmp_path / "c.tif", GREY)


def palette_with_a_hole():
    image = Image.fromarray(COLOUR).quantize(64)
    image.info["transparency"] = int(np.asarray(image)[3, 4])
    return image


REFUSED = {
    "transparent palette": ("png", lambda path: palette_with_a_hole().save(
        path, transparency=palette_with_a_hole().info["transparency"]), "transparent"),
    "transparent LA": ("png", lambda path: Image.fromarray(np.concatenate([GREY[..., None], HOLED], -1), "LA").save(path),
                       "transparent"),
    "transparent RGBA": ("png", lambda path: Image.fromarray(np.concatenate([COLOUR, HOLED], -1), "RGBA").save(path),
                         "transparent"),
    "CMYK jpg": ("jpg", lambda path: Image.fromarray(COLOUR).convert("CMYK").save(path), "CMYK"),
    "CMYK tif": ("tif", lambda path: Image.fromarray(COLOUR).convert("CMYK").save(path), "CMYK"),
    "LAB tif": ("tif", lambda path: tifffile.imwrite(path, COLOUR, photometric="cielab"), "LAB"),
    "YCbCr tif": ("tif", lambda path: tifffile.imwrite(path, COLOUR, photometric="ycbcr"), "YCBCR"),
    "three pages": ("tif", lambda path: tifffile.imwrite(path, np.stack([GREY] * 3), photometric="minisblack"), "3 pages"),
    "four pages": ("tif", lambda path: tifffile.imwrite(path, np.stack([GREY] * 4), photometric="minisblack"), "4 pages"),
    "pages of two sizes": ("tif", lambda path: write_pages(path), "2 pages"),
    "animation": ("png", lambda path: MODES["RGB"].save(path, save_all=True, append_images=[Image.fromarray(COLOUR[::-1])]),
                  "2 pages"),
    "one bit": ("png", lambda path: Image.fromarray(GREY > 128).save(path), "black and white"),
}  # fmt: skip


def write_pages(path):
    with tifffile.TiffWriter(path) as file:
        file.write(GREY, photometric="minisblack")
        file.write(GREY[:10], photometric="minisblack")


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_and_why(tmp_path, what):
    suffix, write, says = REFUSED[what]
    path = tmp_path / f"a.{suffix}"
    write(path)
    with pytest.raises(HVAEError, match=rf"a\.{suffix}: .*{says}"):
        read_luminance(path)


@pytest.mark.parametrize("suffix", [s for s in IMAGE_SUFFIXES if s not in (".iml", ".imc")])
def test_every_listed_suffix_is_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    grey = suffix in (".pgm", ".pnm")
    kinds = {
        ".jpg": {"quality": 95},
        ".jpeg": {"quality": 95},
        ".webp": {"lossless": True},
        ".jp2": {"irreversible": False},
    }
    Image.fromarray(GREY if grey else COLOUR).save(path, **kinds.get(suffix, {}))
    same(path, np.asarray(Image.open(path).convert("L" if grey else "RGB")))
