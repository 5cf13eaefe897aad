"""Miniature trees laid out as NSD's bucket is, with betas that say where they come from.

The design, the stimuli and the number of trials have their full size; volumes are small and
only the sessions asked for are there.
"""

import itertools

import h5py
import nibabel as nib
import numpy as np
from scipy.io import savemat

SHAPE = (7, 6, 5)  # X, Y, Z, all different
N_VERTICES = 40
N_TRIALS = 750
#: Two voxels that spell the 1-based id among 73 000, and one that spells session and trial.
ID_LOW, ID_HIGH, TIME = (3, 2, 1), (3, 3, 1), (4, 2, 1)
#: Has no data in any session; voxels with x = 0 have none in session 2.
NEVER = (6, 5, 4)
AFFINE = np.array([[1.8, 0, 0, -10], [0, 1.8, 0, -20], [0, 0, 1.8, -5], [0, 0, 0, 1.0]])
ROI_NAMES = {
    "prf-visualrois": ["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"],
    "floc-faces": ["OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"],
}


class NSDTree:
    """What is in a tree: plain loops and formulas that share nothing with the loader."""

    def __init__(self, root, subject=1, sessions=(1, 2), shape=SHAPE, seed=0):
        self.root, self.subject, self.sessions = root, subject, list(sessions)
        self.shape = shape
        rng = np.random.default_rng(seed)
        self.shared = np.sort(rng.choice(73_000, 1000, replace=False)) + 1
        others = rng.permutation(np.setdiff1d(np.arange(1, 73_001), self.shared))
        own = others.reshape(8, 9000)
        self.subjectim = np.hstack([np.tile(self.shared, (8, 1)), own])
        # Two sessions at a time show 500 images three times each, one in ten of them shared.
        blocks = [
            np.repeat(np.r_[1 + 50 * b : 51 + 50 * b, 1001 + 450 * b : 1451 + 450 * b], 3)
            for b in range(20)
        ]
        self.masterordering = np.concatenate([rng.permutation(block) for block in blocks])
        self.nsdgeneral = rng.integers(-1, 2, self.shape)
        for voxel in (ID_LOW, ID_HIGH, TIME, NEVER, (0, 1, 2)):
            self.nsdgeneral[voxel] = 1
        self.rois = {
            name: rng.integers(-1, len(labels) + 1, self.shape)
            for name, labels in ROI_NAMES.items()
        }
        self.ncsnr = rng.random(self.shape).astype(np.float32)

    def shown(self, session, trial):
        """1-based id among 73 000 of the image of a trial (counted from 0)."""
        index = self.masterordering[(session - 1) * N_TRIALS + trial]
        return int(self.subjectim[self.subject - 1, index - 1])

    def repeat(self, session, trial):
        """How often the image was shown before."""
        now = (session - 1) * N_TRIALS + trial
        return int((self.masterordering[:now] == self.masterordering[now]).sum())

    def betas(self, session):
        """Stored integers, (750, X, Y, Z)."""
        x, y, z = np.meshgrid(*map(np.arange, self.shape), indexing="ij")
        trial = np.arange(N_TRIALS)[:, None, None, None]
        place = 1 + x + 10 * y + 100 * z
        betas = (place + (trial * place * 7 + 31 * session) % 613).astype(np.int16)
        ids = np.array([self.shown(session, t) for t in range(N_TRIALS)])
        betas[:, *ID_LOW], betas[:, *ID_HIGH] = ids % 1000, ids // 1000
        betas[:, *TIME] = 1000 * session + np.arange(N_TRIALS)
        betas[:, *NEVER] = 0
        if session == 2:
            betas[:, 0] = 0
        return betas

    def surface_betas(self, session, side):
        """Stored floats, (750, vertices): no two vertices, sides, trials or sessions are alike."""
        trial, vertex = np.mgrid[:N_TRIALS, :N_VERTICES]
        sign = {"lh": 1, "rh": -1}[side]
        return (sign * (vertex + 1 + trial / 1000) + 100 * session).astype(np.float32)

    # ------------------------------------------------------------------ writing

    def write(self, *, hdf5=True, nifti=False, surface=False):
        self.write_experiment()
        self.write_rois()
        for session in self.sessions:
            if hdf5:
                self.write_hdf5(session)
            if nifti:
                self.write_nifti(session)
            if surface:
                self.write_surface(session)
        return self

    def folder(self, path):
        folder = self.root / path.format(f"subj{self.subject:02d}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def beta_folder(self, space="func1pt8mm"):
        return self.folder("nsddata_betas/ppdata/{}/" + space + "/betas_fithrf_GLMdenoise_RR")

    def write_experiment(self):
        design = {
            "masterordering": self.masterordering[None].astype(float),
            "subjectim": self.subjectim.astype(float),
            "sharedix": self.shared[None].astype(float),
        }
        savemat(self.folder("nsddata/experiments/nsd") / "nsd_expdesign.mat", design)
        ids = {self.shown(s, t) for s, t in itertools.product(self.sessions, range(N_TRIALS))}
        path = self.folder("nsddata_stimuli/stimuli/nsd") / "nsd_stimuli.hdf5"
        with h5py.File(path, "w") as file:
            # Chunks that are not written take no room.
            shape, chunks = (73_000, 425, 425, 3), (1, 85, 85, 3)
            images = file.create_dataset("imgBrick", shape, "u1", chunks=chunks, compression="gzip")
            for number in sorted(ids):
                row = number - 1
                images[row, :5, :5] = [row // 65536, row // 256 % 256, row % 256]

    def write_rois(self):
        folder = self.folder("nsddata/ppdata/{}/func1pt8mm/roi")
        left = (
            np.arange(self.shape[0])[:, None, None] >= self.shape[0] // 2
        )  # x grows to the left here
        write_volume(folder / "nsdgeneral.nii.gz", self.nsdgeneral)
        for name, values in self.rois.items():
            write_volume(folder / f"{name}.nii.gz", values)
            write_volume(folder / f"lh.{name}.nii.gz", np.where(left, values, -1))
            write_volume(folder / f"rh.{name}.nii.gz", np.where(left, -1, values))
            self.write_labels(self.folder("nsddata/freesurfer/{}/label"), name)
        write_volume(self.beta_folder() / "ncsnr.nii.gz", self.ncsnr)

    def write_labels(self, folder, name):
        lines = ["0 Unknown 0 0 0 0"]
        lines += [f"{i} {label} {i} 0 0 0" for i, label in enumerate(ROI_NAMES[name], start=1)]
        (folder / f"{name}.mgz.ctab").write_text("\n".join(lines) + "\n")

    def write_hdf5(self, session):
        path = self.beta_folder() / f"betas_session{session:02d}.hdf5"
        with h5py.File(path, "w") as file:
            stored = self.betas(session).transpose(0, 3, 2, 1)
            file.create_dataset("betas", data=stored, chunks=(N_TRIALS, 1, 1, 1))

    def write_nifti(self, session):
        path = self.beta_folder() / f"betas_session{session:02d}.nii.gz"
        write_volume(path, np.moveaxis(self.betas(session), 0, 3))

    def write_surface(self, session):
        folder = self.beta_folder("fsaverage")
        labels = self.folder("nsddata/freesurfer/fsaverage/label")
        for side in ("lh", "rh"):
            write_mgh(
                folder / f"{side}.betas_session{session:02d}.mgh",
                self.surface_betas(session, side).T[:, None, None],
            )
            write_mgh(folder / f"{side}.ncsnr.mgh", self.surface_ncsnr(side)[:, None, None])
            roi = self.surface_roi(side).astype(np.int32)
            write_mgh(labels / f"{side}.prf-visualrois.mgz", roi[:, None, None])
        self.write_labels(labels, "prf-visualrois")

    def surface_ncsnr(self, side):
        return ((np.arange(N_VERTICES) + 1) / (100 if side == "lh" else 200)).astype(np.float32)

    def surface_roi(self, side):
        return (np.arange(N_VERTICES) + (0 if side == "lh" else 3)) % 8


def write_volume(path, values):
    dtype = np.float32 if values.dtype.kind == "f" else np.int16
    nib.save(nib.Nifti1Image(values.astype(dtype), AFFINE), path)


def write_mgh(path, values):
    nib.save(nib.MGHImage(values, np.eye(4)), path)
