"""Near copies are found, independent pictures are not, and groups are what copies connect."""

import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from scipy import ndimage

import brainenc
from brainenc.data import similar_images
from brainenc.data.registration import register
from brainenc.data.small_pictures import SIDE, detail, small_pictures

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from similar_pictures import CHANGES, changed

#: Changes that copies are found with, and how their pairs are named.
KINDS = {
    "JPEG, quality 30": "altered",
    "half the resolution": "altered",
    "crop 90 %": "cropped",
    "crop 80 %": "cropped",
    "mirrored": "mirrored",
    "mirrored crop 90 %": "mirrored",
    "brightness + 10 %": "altered",
    "brightness - 10 %": "altered",
    "shift 5 %": "shifted",
    "rotation 5°": "rotated",
    "jitter of 2 grey levels": "altered",
}


@pytest.fixture(scope="module")
def scenes():
    return brainenc.datasets.simulate_subject(300, 10, random_state=3).images


@pytest.fixture(scope="module")
def photographs(real_data):
    """1200 photographs, 112 × 112, read from their files."""
    return brainenc.ImageFiles.from_folder(real_data("cowley2023_v4_210225") / "images")


def pairs_of(found):
    """Pairs as a dict of (smaller, larger) to kind."""
    columns = (found.pairs[name] for name in ("image_a", "image_b", "kind"))
    return {(int(a), int(b)): kind for a, b, kind in zip(*columns, strict=True)}


# ------------------------------------------------------------------ what is found


@pytest.mark.parametrize("change", KINDS)
def test_changed_copies_of_scenes_are_found_and_named(scenes, change):
    originals = np.arange(0, 300, 6)
    copies = changed(scenes[originals], CHANGES[change])
    # In random order: a scene and its copy may not profit from being neighbours.
    order = np.random.default_rng(0).permutation(350)
    found = similar_images(np.concatenate([scenes, copies])[order])
    kinds = {}
    for (a, b), kind in pairs_of(found).items():
        kinds[tuple(sorted((int(order[a]), int(order[b]))))] = kind
    wanted = [(int(a), 300 + i) for i, a in enumerate(originals)]
    hits = [kinds[pair] for pair in wanted if pair in kinds]
    # Measured: at least 98 % of 200. With 50 copies 46 are exceeded in 99.7 % of samples of .98.
    assert len(hits) >= 46
    # Symmetric scenes (corridors) look like themselves when mirrored.
    assert hits.count(KINDS[change]) >= 0.9 * len(hits)
    # Copies of one scene are no copies of another, but for a few alike corridors.
    assert len(set(kinds) - set(wanted)) <= 4


@pytest.mark.slow
def test_changed_copies_of_photographs_are_found(photographs):
    # One copy of each of 330 photographs.
    of = np.concatenate([np.arange(330)[i :: len(KINDS)] for i in range(len(KINDS))])
    images = np.asarray(photographs)
    each = [
        changed(images[rows], CHANGES[name], 7)
        for rows, name in zip(np.split(of, len(KINDS)), KINDS, strict=True)
    ]
    found = similar_images(np.concatenate([images, *each]))
    pairs = set(pairs_of(found))
    hits = sum((int(a), 1200 + i) in pairs for i, a in enumerate(of))
    assert hits >= 0.98 * 330
    assert len(pairs) - hits <= 3


def test_frames_of_films_are_grouped_by_film(real_data):
    with np.load(real_data("henaff2021_v1_ay3_u001.npz")) as file:
        images, movie = file["images"], file["movie"]
    # Each of ten movies was shown a second time, magnified.
    film = movie + 10 * (np.arange(len(movie)) >= 240)
    groups = brainenc.similar_groups(images)
    in_largest = 0
    for group in np.unique(groups):
        assert len(np.unique(film[groups == group])) == 1
    for number in np.unique(film):
        in_largest += np.unique(groups[film == number], return_counts=True)[1].max()
    # Frames without contrast are on their own.
    assert in_largest >= len(film) - 8


# ------------------------------------------------------------------ what is not


@pytest.mark.slow
def test_independent_photographs_are_no_copies(photographs, real_data):
    assert len(similar_images(photographs).pairs) == 0
    for name in ("kriegeskorte2008_92", "vangerven2010_digits69_fmri", "miyawaki2008_s1_v1"):
        with np.load(real_data(f"{name}.npz")) as file:
            assert len(similar_images(file["images"]).pairs) == 0, name


def test_photographs_that_share_their_background_are_copies(real_data):
    with np.load(real_data("cowley2023_v4_210325.npz")) as file:
        images = file["images"]
    found = pairs_of(similar_images(images))
    # Looked at by eye: one mountain, one bush, one meadow … with another object in front.
    assert (103, 130) in found
    assert (330, 386) in found
    assert 5 <= len(found) <= 25


y, x = np.mgrid[:64, :64] / 64 - 0.5


def bar(angle, position):
    return np.abs(x * np.cos(angle) + y * np.sin(angle) - position) < 0.05


def grating(angle, frequency, phase=0.0):
    return np.cos(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase) / 2 + 0.5


STIMULI = {
    "gratings": [grating(np.pi * k / 12, f) for f in (2, 4, 8) for k in range(12)],
    "phases": [grating(0.3, 5, phase) for phase in np.arange(8) * np.pi / 4],
    "plaids": [(grating(k, 4) + grating(k + 1, 4)) / 2 for k in np.arange(6) * np.pi / 6],
    "bars": [bar(k, p) for k in np.arange(4) * np.pi / 4 for p in (-0.3, -0.1, 0.1, 0.3)],
    "wedges": [
        ((np.arctan2(y, x) - k) % (2 * np.pi) < 0.6) & (np.hypot(x, y) < 0.5)
        for k in np.arange(8) * np.pi / 4
    ],
    "discs": [
        np.hypot(x - a, y - b) < r for a in (-0.2, 0.2) for b in (-0.2, 0.2) for r in (0.07, 0.14)
    ],
    "chequers": list(np.random.default_rng(0).integers(0, 2, (80, 10, 10))),
    "noise": list(np.random.default_rng(0).random((100, 32, 32))),
    "grey fields": [np.full((16, 16), level) for level in np.linspace(0, 1, 50)],
}


@pytest.mark.parametrize("name", STIMULI)
def test_stimuli_that_differ_by_design_are_no_copies(name):
    images = np.array([200 * np.asarray(picture) + 27 for picture in STIMULI[name]]).astype(
        np.uint8
    )
    assert len(similar_images(images).pairs) <= 1
    # And the same pictures with noise of the camera are.
    if images.shape[1] > 10 and name != "grey fields":
        noisy = changed(images, CHANGES["jitter of 2 grey levels"])
        found = set(pairs_of(similar_images(np.concatenate([images, noisy]))))
        assert sum((i, i + len(images)) in found for i in range(len(images))) >= 0.9 * len(images)


def test_pictures_without_pixels_enough_or_detail_are_copies_if_identical():
    tiny = np.arange(10_000, dtype=">u2").view(np.uint8).reshape(10_000, 1, 2)
    assert len(similar_images(tiny).pairs) == 0
    rows = np.random.default_rng(1).permutation(np.repeat(np.arange(10_000), 3))
    found = similar_images(tiny[rows])
    assert set(found.pairs["kind"]) == {"identical"}
    assert len(found.pairs) == 20_000
    # The same group where the same picture is, numbered by first appearance.
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(found.groups, np.argsort(np.argsort(first))[inverse])


def test_one_picture_many_times_is_one_group(scenes):
    """Its mean over the images is the picture itself, which may not be taken out."""
    copies = changed(np.repeat(scenes[:1], 150, axis=0), CHANGES["jitter of 2 grey levels"])
    assert len(np.unique(brainenc.similar_groups(copies))) == 1


def test_two_pictures_are_enough_to_compare(scenes):
    pair = np.stack([scenes[0], changed(scenes[:1], CHANGES["JPEG, quality 30"])[0]])
    assert brainenc.similar_groups(pair).tolist() == [0, 0]
    assert brainenc.similar_groups(scenes[:2]).tolist() == [0, 1]
    assert brainenc.similar_groups(scenes[:1]).tolist() == [0]


# ------------------------------------------------------------------ how it is found


@pytest.mark.parametrize("aspect", [1.0, 0.5])
def test_registration_finds_a_known_transform(scenes, aspect):
    """A picture is resampled by SciPy, at twice the resolution, with a transform that is known."""
    shift, log_size, angle = np.array([0.06, -0.04]), 0.1, 0.07
    large = ndimage.gaussian_filter(np.random.default_rng(0).random((20, 128, 128)), (0, 4, 4))
    large = (large - large.mean()) / large.std() * 0.1 + 0.5
    # Columns of a picture that is higher than wide are further apart than its rows.
    to_square = np.diag([1 / aspect, 1])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    # Where the point (y, x) of the copy is in the picture; b is the copy's source.
    matrix = np.exp(log_size) * to_square @ turn @ np.linalg.inv(to_square)
    centre = np.array([63.5, 63.5])
    offset = centre + 128 * shift[::-1] - matrix @ centre
    copies = np.stack(
        [ndimage.affine_transform(one, matrix, offset, order=3, mode="mirror") for one in large]
    )
    small = np.concatenate([copies, large]).reshape(40, 32, 4, 32, 4).mean(axis=(2, 4))
    maps, _ = detail(small.astype(np.float32))
    a = np.arange(20)
    r, transform = register(maps, a, a + 20, np.zeros(20, dtype=bool), aspect)
    assert r.min() > 0.9
    # A small pixel is 1/32 = .031 of the width; a fifth of it, over 16 pixels for size and angle.
    wanted = [*shift, log_size, angle]
    np.testing.assert_allclose(np.median(transform, axis=0), wanted, atol=0.006)


def test_mirrored_pictures_are_registered_with_their_mirror_image(scenes):
    maps, _ = detail(small_pictures(scenes[:20]).luminance)
    both = np.concatenate([maps, maps[:, :, ::-1]])
    a, mirrored = np.arange(20), np.ones(20, dtype=bool)
    r, transform = register(both, a, a + 20, mirrored)
    np.testing.assert_allclose(r, 1, atol=1e-4)
    assert np.abs(transform).max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(32, 32), (10, 14), (64, 40, 3), (150, 333, 3), (425, 425, 3)])
def test_small_pictures_are_averages_over_areas(shape):
    noise = np.random.default_rng(0).random((3, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, shape[0] / 20, shape[1] / 20, 0)[: 1 + len(shape)])
    images = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    for image, found in zip(images, small_pictures(images).luminance, strict=True):
        grey = image / 255 if image.ndim == 2 else image @ [0.299, 0.587, 0.114] / 255
        # Every pixel as 32 × 32 equal ones, of which each cell averages a whole number.
        fine = grey.repeat(SIDE, axis=0).repeat(SIDE, axis=1)
        wanted = fine.reshape(SIDE, shape[0], SIDE, shape[1]).mean(axis=(1, 3))
        # Large ones are averaged over 2 … 6 whole pixels first: cells move by less than 1 %.
        error = np.abs(found - wanted).max()
        assert error < (1e-5 if min(shape[:2]) < 2 * SIDE else 0.03)


class Counted:
    """A lazy sequence that counts how often a row is read, and how many at once."""

    dtype = np.dtype(np.uint8)

    def __init__(self, images):
        self.images, self.shape = images, images.shape
        self.reads, self.largest = np.zeros(len(images), int), 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        self.reads[rows] += 1
        self.largest = max(self.largest, self.images[rows].nbytes)
        return self.images[rows]


def test_images_are_read_once_in_batches_of_bounded_size(scenes):
    lazy = Counted(scenes)
    found = similar_images(lazy)
    assert (lazy.reads == 1).all()
    np.testing.assert_array_equal(found.groups, brainenc.similar_groups(scenes))
    large = Counted(np.zeros((40, 1000, 1500, 3), np.uint8))
    similar_images(large)
    assert (large.reads == 1).all()
    assert large.largest <= 2**26


def test_groups_are_connected_pairs_and_near_is_what_pairs_say(scenes):
    copies = changed(scenes[:30], CHANGES["mirrored"])
    images = np.concatenate([scenes[:60], copies, scenes[[0, 0, 5]]])
    found = similar_images(images)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    test, train = order[:40], order[40:]
    # By hand: identical images are one picture, and copies of one are copies of the other.
    picture = {tuple(image.ravel()): i for i, image in reversed(list(enumerate(images)))}
    same = [picture[tuple(image.ravel())] for image in images]
    pairs = {(same[a], same[b]) for a, b in pairs_of(found)}
    wanted = [
        any(same[i] == same[j] or {(same[i], same[j]), (same[j], same[i])} & pairs for j in train)
        for i in test
    ]
    np.testing.assert_array_equal(found.near(test, train), wanted)
    assert found.groups[0] == found.groups[60] == found.groups[90] == found.groups[91]
    assert found.groups[5] == found.groups[65] == found.groups[92]
    for a, b in pairs_of(found):
        assert found.groups[a] == found.groups[b]


def test_data_have_them_too(scenes):
    data = brainenc.EncodingData(scenes[[0, 1, 2, 1]], np.ones((4, 2, 3)))
    assert pairs_of(data.similar_images()) == {(1, 3): "identical"}
    assert data.similar_images().pairs["distance"].tolist() == [0.0]


def test_what_is_no_picture_is_refused():
    with pytest.raises(TypeError, match="uint8"):
        similar_images(np.zeros((4, 8, 8)))
