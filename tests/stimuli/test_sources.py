import numpy as np
import pytest
import xarray as xr
from skimage.io import imsave

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import natural_patches
from pyro_hvae.stimuli.readers import read_luminance, to_luminance
from pyro_hvae.stimuli.sources import EMBEDDED_NATURAL, EMBEDDED_TEST, EMBEDDED_TEXTURES, Photograph, open_source
from tests.stimuli.conftest import photograph

RED, GREEN, BLUE = 0.2126, 0.7152, 0.0722


def opened(source, size=20, gamma="auto", downsample=None):
    return open_source(source, embedded=EMBEDDED_NATURAL, size=size, gamma=gamma, downsample=downsample)


def save(path, pixels):
    imsave(path, pixels, check_contrast=False)
    return path


def test_srgb_reference_values():
    """IEC 61966-2-1: linear up to 10/255, a power beyond."""
    decoded = to_luminance(np.array([[0, 10, 11, 60, 128, 255]], np.uint8), "auto", "x")
    np.testing.assert_allclose(decoded[0], [0, 0.0030352698, 0.0033465358, 0.0451862, 0.2158605, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "white", "channels", "gamma", "linear"),
    [
        (np.uint8, 255, 1, "auto", False),
        (np.uint8, 255, 3, "auto", False),
        (np.uint16, 65535, 3, "auto", False),
        (np.uint16, 65535, 1, "auto", True),
        (np.float32, 1, 1, "auto", True),
        (np.float64, 1, 3, "auto", True),
        (np.uint16, 65535, 1, "srgb", False),
        (np.float32, 1, 1, "srgb", False),
        (np.uint8, 255, 1, "linear", True),
    ],
)
def test_gamma(dtype, white, channels, gamma, linear):
    pixels = np.full((2, 3, 3) if channels == 3 else (2, 3), white * 0.6).astype(dtype)
    level = float(pixels.flat[0]) / white
    expected = float(pixels.flat[0]) if linear else ((level + 0.055) / 1.055) ** 2.4
    luminance = to_luminance(pixels, gamma, "x")
    assert luminance.dtype == np.float32 and luminance.shape == (2, 3)
    np.testing.assert_allclose(luminance, expected, rtol=1e-4)


def test_colour_weights_apply_to_linear_light():
    pixels = np.zeros((1, 3, 3), np.uint8)
    pixels[0, range(3), range(3)] = 255
    np.testing.assert_allclose(to_luminance(pixels, "auto", "x")[0], [RED, GREEN, BLUE], rtol=1e-5)
    # Half-level red: the curve is undone first, the weights come second.
    np.testing.assert_allclose(to_luminance(pixels // 255 * 128, "auto", "x")[0, 0], RED * 0.21586050, rtol=1e-5)


def test_opaque_alpha_is_dropped_and_transparency_refused():
    pixels = np.full((4, 5, 4), 255, np.uint8)
    np.testing.assert_allclose(to_luminance(pixels, "auto", "x"), 1)
    pixels[0, 0, 3] = 200
    with pytest.raises(HVAEError, match="x: has transparent pixels"):
        to_luminance(pixels, "auto", "x")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[1.0, np.nan]]), "NaN or infinite"),
        (np.array([[1.0, np.inf]]), "NaN or infinite"),
        (np.array([[1.0, -2.0]]), "negative pixels"),
        (np.zeros((2, 2), complex), "type complex128"),
        (np.zeros((2, 2), bool), "type bool"),
        (np.zeros((2, 2, 5)), "shape"),
        (np.zeros(3), "shape"),
    ],
)
def test_what_is_no_luminance(pixels, message):
    with pytest.raises(HVAEError, match=f"here: .*{message}"):
        to_luminance(pixels, "auto", "here")


def test_srgb_of_unbounded_values():
    with pytest.raises(HVAEError, match="give gamma='linear'"):
        to_luminance(np.array([[0.0, 3.0]]), "srgb", "x")
    with pytest.raises(HVAEError, match="did you mean 'linear'"):
        to_luminance(np.array([[0.0, 3.0]]), "liner", "x")


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "pgm"])
def test_formats(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    np.testing.assert_array_equal(
        read_luminance(save(tmp_path / f"a.{suffix}", pixels)), to_luminance(pixels, "auto", "")
    )


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_files_are_read_as_they_are(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 6000, (30, 40)).astype(np.uint16)
    np.testing.assert_array_equal(read_luminance(save(tmp_path / f"a.{suffix}", pixels)), pixels.astype(np.float32))


def test_van_hateren(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 6000, (1024, 1536)).astype(np.uint16)
    path = tmp_path / "imk00001.iml"
    path.write_bytes(pixels.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_luminance(path), pixels.astype(np.float32))
    path.write_bytes(pixels.tobytes()[:-2])
    with pytest.raises(HVAEError, match=r"imk00001\.iml: 3,145,726 bytes; a van Hateren image has 3,145,728"):
        read_luminance(path)
    path.write_bytes(pixels.tobytes() + b"\0\0")
    with pytest.raises(HVAEError, match="3,145,730 bytes"):
        read_luminance(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "pgm", "gif"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_images_name_the_file(tmp_path, suffix, damage):
    path = tmp_path / f"broken.{suffix}"
    save(path, np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8))
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"garbage" * 50, "empty": b""}[damage])
    with pytest.raises(HVAEError, match=rf"broken\.{suffix}: not an image, or a damaged one"):
        natural_patches(8, tmp_path)


@pytest.mark.parametrize("suffix", ["npy", "npz", "nc"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_arrays_name_the_file(tmp_path, suffix, damage):
    path = tmp_path / f"broken.{suffix}"
    stack = np.stack([photograph(i) for i in range(2)])
    match suffix:
        case "npy":
            np.save(path, stack)
        case "npz":
            np.savez(path, stack)
        case "nc":
            xr.Dataset({"images": (("image", "y", "x"), stack)}).to_netcdf(path)
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"garbage" * 50, "empty": b""}[damage])
    with pytest.raises(HVAEError, match=rf"broken\.{suffix}: not a readable array file"):
        natural_patches(8, path)


def test_object_arrays_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(HVAEError, match=r"a\.npy: not a readable array file"):
        opened(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(HVAEError, match=r"a\.npz: not a readable array file"):
        opened(tmp_path / "a.npz")


def test_folder_is_sorted_by_number_and_names_what_it_ignores(folder):
    (folder / "notes.txt").write_text("not a photograph")
    (folder / ".hidden.png").write_text("not a photograph")
    (folder / "inner").mkdir()
    found = opened(folder)
    assert [p.name for p in found.content] == ["scene1", "scene2", "scene3", "scene4", "scene9", "scene10"]
    assert found.ignored == ("inner/", "notes.txt")


def test_equal_stems_keep_their_suffix(tmp_path):
    for name in ("a.png", "a.tif", "b.png"):
        save(tmp_path / name, np.arange(100, dtype=np.uint8).reshape(10, 10))
    assert [p.name for p in opened(tmp_path).content] == ["a.png", "a.tif", "b"]


def test_no_such_source_and_empty_folder(tmp_path):
    with pytest.raises(HVAEError, match="'embeded' is neither 'embedded' nor an existing"):
        opened("embeded")
    with pytest.raises(HVAEError, match=r"no images here; expected files ending in \.iml"):
        opened(tmp_path)
    with pytest.raises(HVAEError, match="downsample must be a whole number of at least 1, got 0"):
        opened("embedded", downsample=0)


@pytest.mark.parametrize("suffix", ["npy", "npz", "nc"])
def test_array_files(tmp_path, suffix):
    path = tmp_path / f"stack.{suffix}"
    stack = np.stack([photograph(i) for i in range(3)])
    match suffix:
        case "npy":
            np.save(path, stack)
        case "npz":
            np.savez(path, anything=stack)
        case "nc":
            xr.Dataset({"images": (("image", "y", "x"), stack)}).to_netcdf(path)
    photographs = opened(path).content
    assert [p.name for p in photographs] == ["stack[0]", "stack[1]", "stack[2]"]
    np.testing.assert_array_equal(photographs[1].luminance(20), stack[1])


def test_what_the_shape_of_an_array_means():
    grey = np.ones((50, 60))
    assert len(opened(grey).content) == 1
    assert len(opened(np.ones((50, 60, 3))).content) == 1  # one colour photograph
    assert len(opened(np.ones((4, 50, 60))).content) == 4
    assert len(opened(np.ones((4, 50, 60, 3))).content) == 4
    assert opened(np.ones((7, 20, 20))).content.luminance.shape == (7, 20, 20)  # cut patches
    assert opened(np.ones((7, 400))).content.luminance.shape == (7, 20, 20)
    with pytest.raises(HVAEError, match=r"an array of shape \(5,\)"):
        opened(np.ones(5))
    with pytest.raises(HVAEError, match="an array of shape"):
        opened(np.ones((2, 2, 50, 60, 3)))


def test_several_arrays_are_ambiguous(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.ones((50, 60)), two=np.ones((50, 60)))
    with pytest.raises(HVAEError, match=r"a\.npz: holds \['one', 'two'\]; expected one array"):
        opened(tmp_path / "a.npz")


def test_downsampling_is_the_mean_of_squares():
    image = np.arange(7 * 9, dtype=np.float32).reshape(7, 9) + 1
    halved = Photograph("a", image, "auto", 2).luminance(3)
    assert halved.shape == (3, 4)
    assert halved[1, 2] == image[2:4, 4:6].mean()


@pytest.mark.parametrize("image", [np.ones((30, 40)), np.zeros((30, 40))])
def test_constant_image(image):
    with pytest.raises(HVAEError, match="sky: every pixel is"):
        Photograph("sky", image).luminance(20)


def test_image_smaller_than_the_patch():
    with pytest.raises(HVAEError, match="thumb: 12×40 pixels; a patch has 20×20"):
        Photograph("thumb", np.random.default_rng(0).random((12, 40))).luminance(20)
    with pytest.raises(HVAEError, match="thumb: 15×20 pixels after downsampling by 2"):
        Photograph("thumb", np.random.default_rng(0).random((30, 40)), "auto", 2).luminance(20)


def test_embedded_photographs_are_installed_and_varied():
    for name, where in {**EMBEDDED_NATURAL, **EMBEDDED_TEXTURES}.items():
        (found,) = open_source("embedded", embedded={name: where}, size=20, gamma="auto", downsample=None).content
        luminance = found.luminance(40)
        assert min(luminance.shape) >= 150 and luminance.min() >= 0 and luminance.max() <= 1
    assert EMBEDDED_NATURAL.keys() > EMBEDDED_TEST


def test_embedded_photograph_that_is_not_installed():
    with pytest.raises(HVAEError, match=r"does not hold data/nothing\.png"):
        open_source("embedded", embedded={"x": ("skimage", "data/nothing.png")}, size=20, gamma="auto", downsample=None)
    with pytest.raises(HVAEError, match="installed no_such_package"):
        open_source("embedded", embedded={"x": ("no_such_package", "a")}, size=20, gamma="auto", downsample=None)
