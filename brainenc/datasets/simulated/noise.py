"""Simulated trial noise: shared fluctuations, neighbours that vary together, and private noise."""

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial import cKDTree

from brainenc.arrays import blocks
from brainenc.progress import progress

#: s.d. of the kernel that mixes neighbours, in voxels on the sheet.
NEIGHBOUR_WIDTH = 1.0


def draw_noise_covariance(
    voxels: pd.DataFrame, noise_sd: np.ndarray, rng: np.random.Generator
) -> tuple[sparse.csr_array, np.ndarray]:
    """Noise covariance Σ = FᵀF + diag(p) with s.d. `noise_sd`, never formed whole.

    Parameters
    ----------
    voxels : pandas.DataFrame, n_voxels rows
        ``roi``, and the position ``i``, ``j`` on the sheet.
    noise_sd : array, shape (n_voxels,)
    rng : numpy.random.Generator

    Returns
    -------
    factors : scipy.sparse.csr_array, shape (n_factors, n_voxels), float32
        Fluctuations of the whole cortex, of each ROI and of slow waves along the sheet (10–35 %
        of a voxel's noise variance), then one patch of neighbours per voxel (15–35 %).
    private_variance : array, shape (n_voxels,), float32
    """
    n_voxels = len(voxels)
    shared_share = rng.uniform(0.10, 0.35, n_voxels)
    neighbour_share = rng.uniform(0.15, 0.35, n_voxels)
    shared = _unit_columns(sparse.csr_array(_shared_loadings(voxels, rng)))
    neighbours = _unit_columns(_neighbour_kernel(voxels))
    factors = sparse.vstack(
        [
            shared @ sparse.diags_array(noise_sd * np.sqrt(shared_share)),
            neighbours @ sparse.diags_array(noise_sd * np.sqrt(neighbour_share)),
        ]
    )
    private_variance = noise_sd**2 * (1 - shared_share - neighbour_share)
    return sparse.csr_array(factors, dtype=np.float32), private_variance.astype(np.float32)


def _shared_loadings(
    voxels: pd.DataFrame, rng: np.random.Generator, n_waves: int = 4
) -> np.ndarray:
    n_voxels = len(voxels)
    everywhere = 1 + 0.3 * rng.standard_normal((1, n_voxels))
    in_roi = np.array([voxels["roi"] == roi for roi in voxels["roi"].unique()], dtype=float)
    in_roi *= 1 + 0.3 * rng.standard_normal(in_roi.shape)
    position = voxels[["i", "j"]].to_numpy(float).T / max(1, voxels[["i", "j"]].to_numpy().max())
    wave_number = 2 * np.pi * rng.standard_normal((n_waves, 2))
    waves = np.cos(wave_number @ position + rng.uniform(0, 2 * np.pi, (n_waves, 1)))
    return np.concatenate([everywhere, in_roi, 0.7 * waves])


def _neighbour_kernel(voxels: pd.DataFrame) -> sparse.csr_array:
    """Gaussian of the distance on the sheet, cut at three widths; hemispheres lie apart."""
    tree = cKDTree(voxels[["i", "j"]].to_numpy(float))
    distance = tree.sparse_distance_matrix(tree, 3 * NEIGHBOUR_WIDTH, output_type="coo_matrix")
    kernel = np.exp(-(distance.data**2) / (2 * NEIGHBOUR_WIDTH**2))
    return sparse.csr_array((kernel, distance.coords), shape=distance.shape)


def _unit_columns(loadings: sparse.csr_array) -> sparse.csr_array:
    norm = np.sqrt(loadings.power(2).sum(axis=0))
    return loadings @ sparse.diags_array(1 / norm)


def add_noise(
    responses: np.ndarray,
    factors: sparse.csr_array,
    private_variance: np.ndarray,
    rng: np.random.Generator,
    *,
    block: int = 1024,
    verbose: bool = False,
) -> None:
    """Add an independent draw from N(0, FᵀF + diag(p)) to every row of `responses`, in place.

    Parameters
    ----------
    responses : array, shape (n_trials, n_voxels), float32
    factors : scipy.sparse.csr_array, shape (n_factors, n_voxels)
    private_variance : array, shape (n_voxels,)
    rng : numpy.random.Generator
    block : int
        Trials drawn at once.
    """
    private_sd = np.sqrt(private_variance)
    parts = list(blocks(len(responses), block))
    for part in progress(parts, desc="trial noise", unit="block", verbose=verbose):
        rows = responses[part]
        common = rng.standard_normal((len(rows), factors.shape[0]), dtype=np.float32)
        rows += common @ factors
        rows += private_sd * rng.standard_normal(rows.shape, dtype=np.float32)
