"""Speed of sampling: SynBrain's one pass against MindSimulator's chains. See `speed.py`.

Runs on CUDA as well; draws are streamed where Lightning is installed, which training needs.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import measure, row, timed
from speed_training import made_nets, made_up, median_of, sizes_of
from torch import nn

N_DRAWS, N_DIFFUSION_STEPS = 5, 100


def sampling(arguments: argparse.Namespace) -> Iterator[dict]:
    """Untrained nets: what an image costs does not depend on the weights."""
    sizes, device = sizes_of(arguments), arguments.device
    for precision in ("float32", "bf16"):
        ours = measure(time_one_pass, sizes, device, precision)
        theirs = measure(time_chains, sizes, device, precision)
        yield row(
            f"sampling: an image by one pass, {precision}",
            f"{sizes['voxels']} voxels",
            ours,
            theirs,
            **{"images/s": 1 / ours["s"], "other images/s": 1 / theirs["s"]},
            **{"steps timed": theirs["steps timed"]},
        )
    if has_fabric():
        n_voxels = 200 if arguments.quick else 4000
        yield row(
            "sampling: draws of LatentEncoder streamed to a file",
            f"20 draws × 500 images × {n_voxels} voxels",
            measure(time_streaming, n_voxels, device),
        )


def time_one_pass(sizes: dict[str, Any], device: str, precision: str) -> dict:
    """Mapper with its time folded in, then the decoder: per image."""
    vae, mapper = (net.to(device).eval() for net in made_nets(sizes))
    mapper = mapper.fold_time()
    tokens = torch.from_numpy(made_up(sizes, sizes["images"])[0])

    def one_pass() -> np.ndarray:
        with torch.no_grad(), low_precision(device, precision):
            return vae.decode(mapper(tokens.to(device)), sizes["voxels"]).float().cpu().numpy()

    found = median_of(one_pass, device)
    return found | {name: found[name] / len(tokens) for name in ("s", "CPU s")}


def time_chains(sizes: dict[str, Any], device: str, precision: str) -> dict:
    """MindSimulator's draws by diffusion, decoded: per image.

    On a CPU two chains are timed that are shorter, and a line through both gives the time of all
    steps, since one step costs what the next one does.
    """
    n_images = sizes["images"] // 2
    sampler, tokens = make_sampler(sizes, n_images, device)

    def draw(n_steps: int) -> dict:
        chain = replace(sampler, n_sampling_steps=n_steps)

        def work() -> np.ndarray:
            with low_precision(device, precision):
                return chain.draw(tokens, None, N_DRAWS, lambda: np.random.default_rng(0))

        return median_of(work, device, n=1)

    names = ("s", "CPU s")
    if device.startswith("cuda"):
        found, steps = draw(N_DIFFUSION_STEPS), f"{N_DIFFUSION_STEPS}"
    else:
        few, found = draw(1), draw(3)
        steps = "1 and 3"
        for name in names:
            found[name] += (found[name] - few[name]) / 2 * (N_DIFFUSION_STEPS - 3)
    return found | {"steps timed": steps, **{name: found[name] / n_images for name in names}}


def make_sampler(sizes: dict[str, Any], n_images: int, device: str) -> tuple[Any, np.ndarray]:
    from brainenc.encoders.mind_simulator import stages
    from brainenc.encoders.mind_simulator.parameters import SIZES
    from brainenc.encoders.mind_simulator.sampler import Sampler

    shape, of_nets = sizes["prior tokens"], SIZES[sizes["prior"]]
    net = stages.make_autoencoder(shape, sizes["voxels"], of_nets, random_state=0)
    decode = net.decode
    net.decode = lambda z: decode(z).float()  # NumPy has no bf16
    latents = (net.sizes["n_tokens"], net.sizes["token_width"])
    prior = stages.make_prior(shape, latents, of_nets, N_DIFFUSION_STEPS, random_state=0)
    nn.init.normal_(prior.latents_out.weight, std=0.01)  # it would be skipped if it gave 0
    tokens = np.random.default_rng(0).standard_normal((n_images, *shape), dtype=np.float32)
    scale = stages.LatentScale(np.zeros(latents, dtype=np.float32), 1.0)
    # A step of every kind draws its noise, as all hundred of the published ones do.
    return Sampler(net, prior, scale, eta=1.0, device=device), tokens


def low_precision(device: str, precision: str) -> Any:
    enabled = precision == "bf16"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)


def has_fabric() -> bool:
    try:
        import lightning_fabric  # noqa: F401
    except ImportError:
        return False
    return True


def time_streaming(n_voxels: int, device: str) -> dict:
    """`LatentEncoder.sample` into a file, after a short training."""
    import brainenc

    sizes = {"voxels": n_voxels, "tokens": (4, 16)}
    tokens, betas = made_up(sizes, 500)
    encoder = brainenc.LatentEncoder(None, n_members=2, n_epochs=1, device=device)
    encoder.fit(tokens, betas[:, None])
    with tempfile.TemporaryDirectory() as folder, timed(device) as found:
        draws = encoder.sample(tokens, 20, 0, out=Path(folder) / "draws.npy")
        n_bytes = draws.nbytes
    return found | {"MB/s": n_bytes / 1e6 / found["s"]}
