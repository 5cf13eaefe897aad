"""Miniature folders laid out as the Algonauts 2023 challenge hands them out."""

import numpy as np
from PIL import Image

N_TRAIN, N_TEST = 12, 4
N_VERTICES = {"lh": 7, "rh": 9}
#: Of fsaverage, as the challenge's masks select them.
VERTICES = {
    "lh": np.array([2, 5, 11, 100, 5000, 70_000, 163_841]),
    "rh": np.array([0, 3, 11, 99, 100, 5001, 80_000, 90_000, 163_840]),
}
ATLASES = {
    "prf-visualrois": {0: "Unknown", 1: "V1v", 2: "V1d", 3: "V2v", 7: "hV4"},
    "streams": {0: "Unknown", 1: "early", 5: "ventral"},
}
NSD_IDS = np.array([13, 27, 0, 72_999, 28, 70, 89, 111, 400, 26, 28_500, 5])


def responses(side):
    """(images, vertices): no two of them are alike."""
    image, vertex = np.mgrid[:N_TRAIN, : N_VERTICES[side]]
    return ({"lh": 1, "rh": -1}[side] * (image + 1 + vertex / 100)).astype(np.float32)


def roi_numbers(side, atlas):
    numbers = list(ATLASES[atlas])
    shift = 0 if side == "lh" else 2
    return np.array([numbers[(v + shift) % len(numbers)] for v in range(N_VERTICES[side])])


def pixels(image, *, test=False):
    """An image that says which one it is."""
    array = np.zeros((8, 8, 3), np.uint8)
    array[0, 0] = [image, 100 if test else 200, 7]
    return array


def write_algonauts_tree(root, subject=1):
    folder = root / f"subj{subject:02d}"
    train, fmri = folder / "training_split/training_images", folder / "training_split/training_fmri"
    test, masks = folder / "test_split/test_images", folder / "roi_masks"
    for path in (train, fmri, test, masks):
        path.mkdir(parents=True)
    for i in range(N_TRAIN):
        name = f"train-{i + 1:04d}_nsd-{NSD_IDS[i]:05d}.png"
        Image.fromarray(pixels(i)).save(train / name)
    for i in range(N_TEST):
        Image.fromarray(pixels(i, test=True)).save(test / f"test-{i + 1:04d}_nsd-{900 - i:05d}.png")
    for side, vertices in VERTICES.items():
        np.save(fmri / f"{side}_training_fmri.npy", responses(side))
        everywhere = np.zeros(163_842)
        everywhere[vertices] = 1
        np.save(masks / f"{side}.all-vertices_fsaverage_space.npy", everywhere)
        for atlas, mapping in ATLASES.items():
            np.save(masks / f"{side}.{atlas}_challenge_space.npy", roi_numbers(side, atlas))
            np.save(masks / f"mapping_{atlas}.npy", mapping)
    return folder
