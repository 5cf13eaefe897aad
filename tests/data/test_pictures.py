"""Pictures as they were shown: transparency, orientation, depth, frames; order of files."""

import struct
import zlib

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from brainenc import EncodingData, PixelFeatures
from brainenc.data.hdf5_images import HDF5Images
from brainenc.data.images import ImageFiles, as_images, open_images
from brainenc.data.pictures import over_background, rgb_of
from brainenc.images import looks_like_images, natural_order

GREY = (128, 128, 128)


def rgba_picture(alpha):
    """A gradient whose right half has this alpha, over hidden colour."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 20, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[:, 10:, 3] = alpha
    return pixels


def by_hand(pixels, background):
    """Alpha compositing from its definition, in exact fractions of whole numbers."""
    rgb, alpha = pixels[..., :3].astype(int), pixels[..., 3:].astype(int)
    numerator = rgb * alpha + np.array(background) * (255 - alpha)
    return np.floor(numerator / 255 + 0.5).astype(np.uint8)


def in_file(save):
    def make(pixels, folder):
        path = folder / "picture"
        save(Image.fromarray(pixels), path)
        return [next(folder.glob("picture*"))]

    return make


def in_folder(pixels, folder):
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def in_npy(pixels, folder):
    np.save(folder / "images.npy", pixels[None])
    return folder / "images.npy"


def in_hdf5(pixels, folder):
    with h5py.File(folder / "images.hdf5", "w") as file:
        file["imgBrick"] = pixels[None]
    return HDF5Images(folder / "images.hdf5")


#: Ways in which a picture with alpha may be given.
WAYS = {
    "png": in_file(lambda image, path: image.save(f"{path}.png")),
    "webp": in_file(lambda image, path: image.save(f"{path}.webp", lossless=True, exact=True)),
    "tif": in_file(lambda image, path: image.save(f"{path}.tif")),
    "PIL": lambda pixels, folder: [Image.fromarray(pixels)],
    "array": lambda pixels, folder: pixels[None],
    "list": lambda pixels, folder: [pixels],
    "tensor": lambda pixels, folder: torch.from_numpy(pixels[None]),
    "list of tensors": lambda pixels, folder: [torch.from_numpy(pixels)],
    "hdf5": in_hdf5,
    "folder": in_folder,
    "npy": in_npy,
}


def opened(given, **options):
    read = open_images if hasattr(given, "iterdir") else as_images
    return np.asarray(read(given, **options))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("alpha", [0, 77])
def test_transparent_pixels_need_the_colour_behind_them(tmp_path, way, alpha):
    pixels = rgba_picture(alpha)
    given = WAYS[way](pixels, tmp_path)
    with pytest.raises(ValueError, match="background="):
        opened(given)
    for background, rgb in (("white", (255, 255, 255)), (GREY, GREY), (7, (7, 7, 7))):
        np.testing.assert_array_equal(opened(given, background=background)[0], by_hand(pixels, rgb))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "hdf5"])
def test_opaque_pictures_with_alpha_need_no_background(tmp_path, way):
    pixels = rgba_picture(255)
    np.testing.assert_array_equal(opened(WAYS[way](pixels, tmp_path))[0], pixels[..., :3])


@pytest.mark.parametrize("mode", ["LA", "P", "PA", "L with a colour", "RGB with a colour"])
def test_every_mode_with_transparency(tmp_path, mode):
    pixels = rgba_picture(0)
    pixels[..., :3] = np.where(np.arange(20)[:, None] < 10, 200, 30)  # grey, so that LA can hold it
    expected = by_hand(pixels, GREY)
    path = tmp_path / "picture.png"
    opaque = Image.fromarray(pixels[..., :3].copy())
    if mode == "LA":
        Image.fromarray(pixels).convert("LA").save(path)
    elif mode == "P":
        palette = opaque.convert("P", palette=Image.Palette.ADAPTIVE)
        palette.save(path, transparency=palette.getpixel((15, 0)))
    elif mode.startswith("L"):
        opaque.convert("L").save(path, transparency=30)
    elif mode.startswith("RGB"):
        opaque.save(path, transparency=(30, 30, 30))
    picture = path
    if mode == "PA":
        picture = opaque.convert("P", palette=Image.Palette.ADAPTIVE)
        picture.putalpha(Image.fromarray(pixels[..., 3]))
        assert picture.mode == "PA"
    with pytest.raises(ValueError, match=r"transparent.*background"):
        np.asarray(as_images([picture]))
    read = np.asarray(as_images([picture], background=GREY))
    np.testing.assert_array_equal(read[0], expected)


def test_the_background_is_behind_resized_files_subsets_and_saved_folders(tmp_path):
    pixels = np.stack([rgba_picture(0), rgba_picture(90)])
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    shown = np.stack([by_hand(image, GREY) for image in pixels])
    files = ImageFiles.from_folder(tmp_path, background="#808080")
    np.testing.assert_array_equal(np.asarray(files[[1, 0]]), shown[[1, 0]])
    small = ImageFiles.from_folder(tmp_path, size=(8, 10), background=GREY)
    expected = Image.fromarray(shown[0]).resize((10, 8), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(small[0], np.asarray(expected))
    data = EncodingData(files, np.ones((2, 3)) * [[1], [2]])
    loaded = EncodingData.load(data.save(tmp_path / "data.brain"))
    np.testing.assert_array_equal(np.asarray(loaded.images), shown)
    rgba = HDF5Images.__new__(HDF5Images)  # a lazy sequence is read row by row
    rgba.shape, rgba.ndim, rgba._read = pixels.shape, 4, lambda row: pixels[row]
    lazy = as_images(rgba, background=GREY)
    assert lazy.shape == shown.shape
    np.testing.assert_array_equal(np.asarray(lazy), shown)
    np.testing.assert_array_equal(np.asarray(lazy[1]), shown[1])


def test_over_background_is_exact_for_every_alpha_and_colour():
    alpha, colour = np.mgrid[0:256, 0:256].astype(np.uint8)
    pixels = np.stack([colour, colour[::-1], colour.T, alpha], axis=-1)
    difference = over_background(pixels, "it", (13, 200, 255)).astype(int) - by_hand(
        pixels, (13, 200, 255)
    )
    # Halves, which few pairs have, may be rounded to either side.
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.01


@pytest.mark.parametrize("background", ["no colour", (1, 2), 256, -1, 0.5, True, (0, 0, None)])
def test_what_is_no_colour_is_refused(background):
    with pytest.raises(ValueError, match="must be a colour"):
        rgb_of(background)
    with pytest.raises(ValueError, match="background"):
        ImageFiles(["a.png"], size=(4, 4), background=background)


# ------------------------------------------------------------------ orientation, depth, frames


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_photographs_are_read_upright_from_files_and_pillow(tmp_path, orientation, suffix):
    upright = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    # Where row 0 and column 0 of the stored pixels lie in the upright picture (EXIF 2.32, 4.6.4).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif.tobytes(), **options)
    files = ImageFiles([path])
    assert files.shape == (1, 16, 20, 3)
    np.testing.assert_array_equal(files[0], upright)
    with Image.open(path) as image:
        np.testing.assert_array_equal(as_images([image])[0], upright)


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_several_frames_are_refused(tmp_path, suffix):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)) for _ in range(3)]
    path = tmp_path / f"film.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=rf"film\.{suffix}.* 3 frames or pages"):
        ImageFiles([path])
    with Image.open(path) as image:
        with pytest.raises(ValueError, match=r"images\[0\] has 3 frames"):
            as_images([image])
        assert as_images([image.convert("RGB")]).shape == (1, 8, 9, 3)


def test_a_png_of_16_bits_per_colour_is_refused(tmp_path):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = np.arange(2 * 3 * 3, dtype=">u2").reshape(2, 9) * 3000
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)  # 3 x 2 pixels, 16 bits, RGB
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    path = tmp_path / "deep.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with Image.open(path) as image:
        assert image.mode == "RGB"  # Pillow keeps the upper 8 bits without a word
    with pytest.raises(ValueError, match=r"deep\.png.*more than 8 bits"):
        ImageFiles([path])


# ------------------------------------------------------------------ arrays of another shape


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 40, 3), np.uint8), r"one RGB image or 32 grey.*images\[None\]"),
        (np.zeros((32, 40, 4), np.uint8), r"one RGBA image or 32 grey.*images\[None\]"),
        (np.zeros((32, 40), np.uint8), r"for one grey image pass images\[None\]"),
        (np.zeros((5, 3, 32, 40), np.uint8), r"channels first: pass np\.moveaxis\(images, 1, -1\)"),
        (np.zeros((5, 1, 32, 40), np.uint8), r"pass images\[:, 0\]"),
        (np.zeros((5, 32, 40, 1), np.uint8), r"pass images\[\.\.\., 0\]"),
        (torch.zeros((5, 3, 32, 40), dtype=torch.uint8), "channels first"),
        (torch.zeros((3, 32, 40), dtype=torch.uint8), "channels of one image or grey images"),
        (
            np.ma.masked_equal(np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8), 3),
            "masked array with 1 masked values",
        ),
        ([torch.zeros((3, 32, 40), dtype=torch.uint8)] * 5, "channels first"),
        ([np.zeros((2, 8, 8, 3), np.uint8)], r"images\[0\] \(2, 8, 8, 3\) must be \(H, W\)"),
    ],
)
def test_one_image_as_many_and_channels_first_are_refused_at_every_door(images, message):
    doors = (
        as_images,
        lambda given: EncodingData(given, np.ones((len(given), 2))),
        lambda given: EncodingData.from_trials(given, np.ones((2, 2)), [0, 1]),
        PixelFeatures(size=2, verbose=False).transform,
    )
    for door in doors:
        with pytest.raises(ValueError, match=message):
            door(images)


def test_tensors_and_unmasked_arrays_are_images():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), dtype=np.uint8)
    for given in (
        torch.from_numpy(pixels),
        np.ma.masked_array(pixels),
        [torch.from_numpy(image) for image in pixels],
        [np.ma.masked_array(image) for image in pixels],
    ):
        assert looks_like_images(given)
        images = as_images(given)
        assert type(images) is np.ndarray
        np.testing.assert_array_equal(images, pixels)


# ------------------------------------------------------------------ order of files


def test_numbers_in_names_count_as_numbers():
    names = ["b/1.png", "img1", "img01", "img10", "img2", "img", "a10/2.png", "a2/10.png", "2img"]
    shuffled = np.random.default_rng(0).permutation(names)
    expected = ["2img", "a2/10.png", "a10/2.png", "b/1.png", "img", "img01", "img1", "img2"]
    assert [path.as_posix() for path in natural_order(shuffled)] == [*expected, "img10"]
    padded = [f"coco_{i:05d}_{2 * i}.jpg" for i in range(300)]
    assert [path.name for path in natural_order(reversed(padded))] == sorted(padded)


def test_folders_and_patterns_are_read_in_natural_order(tmp_path):
    for i in range(1, 13):
        Image.new("L", (4, 4), color=i).save(tmp_path / f"img{i}.png")
    for images in (ImageFiles.from_folder(tmp_path), open_images(str(tmp_path / "*.png"))):
        assert np.asarray(images)[:, 0, 0, 0].tolist() == list(range(1, 13))
    data = EncodingData(images, np.arange(12.0)[:, None])
    loaded = EncodingData.load(data.save(tmp_path / "data.brain"))
    assert np.asarray(loaded.images)[:, 0, 0, 0].tolist() == list(range(1, 13))
