"""Pretraining of in-context nets on the voxels of other subjects."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from brainenc.encoders.ensemble import seeded, voxel_moments
from brainenc.encoders.in_context.episodes import (
    Episode,
    Episodes,
    Stage,
    inferred,
    on,
    predicted,
    ridge_weights,
)
from brainenc.encoders.in_context.pretrained import InContextPretraining, alpha_at, net_inputs
from brainenc.encoders.weight_prior import WeightPrior
from brainenc.nets.in_context import InContextNet
from brainenc.training import Cosine, Examples, TrainingRun

#: Sizes of contexts at which penalty and gain are measured, between the shortest and the longest.
CHECKED = (15, 30, 60, 120, 240)
#: Penalties tried, for inputs whose mean variance is 1.
ALPHAS = np.logspace(0, 5, 16)
#: Fewest images of a subject, and most held-out voxels in an evaluation.
MIN_IMAGES, MOST_CHECKED = 30, 64
#: Images predicted in an episode: as published, and for corrections, which are small beside noise.
QUERIES, QUERIES_OF_CORRECTIONS = 100, 400
#: Decay of the moving average of the weights of a net that corrects.
EMA = 0.98
#: Evaluations per stage.
N_EVALUATIONS = 10
#: With fewer subjects a part of the voxels is held out, not a subject.
_ENOUGH_SUBJECTS = 3


def pretrained_net(
    features: Sequence[np.ndarray],
    averages: Sequence[np.ndarray],
    sources: Sequence[str],
    prior: WeightPrior | None,
    net_sizes: Mapping[str, Any],
    stages: Sequence[Stage],
    n_steps: int,
    n_coordinates: int,
    run: TrainingRun,
) -> InContextPretraining:
    """Train a net on other subjects.

    Parameters
    ----------
    features : list of arrays, shape (n_images, ...)
        Of each subject.
    averages : list of arrays, shape (n_images, n_voxels)
        NaN where an image has no data.
    sources : list of str
    prior : WeightPrior or None
        None: the published net, of features divided by their length.
    net_sizes : dict
        Arguments of `InContextNet`.
    stages : list of Stage
    n_steps : int
        Of all stages.
    n_coordinates : int
        Most coordinates of the prior.
    run : TrainingRun

    Returns
    -------
    InContextPretraining

    Raises
    ------
    ValueError : too few images or voxels.
    """
    basis = np.zeros((int(np.prod(features[0].shape[1:])), 0), np.float32)
    if prior is not None:
        basis = prior.factors[0][:, :n_coordinates]
        found = [net_inputs(X, prior, basis) for X in features]
        variance = np.mean([X.var(axis=0).mean() for X in found])
        basis = (basis / np.sqrt(variance)).astype(np.float32)
    inputs = [net_inputs(X, prior, basis) for X in features]
    known, held = _split(inputs, averages, prior is not None, run.random_state)
    longest = min(known.longest, held.longest)
    sizes = np.array([n for n in CHECKED if n < longest] or [longest])
    corrects = prior is not None
    alphas = _penalties(known, sizes, run.random_state) if corrects else np.ones(len(sizes))
    net = seeded(
        run.random_state,
        lambda: InContextNet(inputs[0].shape[1], **{**net_sizes, "corrects": corrects}),
    )
    history = []
    for i, stage in enumerate(stages):
        trained = _train(net, known, held, stage, (sizes, alphas), n_steps, i, run)
        history.append(trained.assign(stage=i + 1))
    return InContextPretraining(
        net,
        prior,
        basis,
        sizes,
        alphas,
        _gain(net, held, sizes, alphas, run),
        list(sources),
        list(features[0].shape[1:]),
        pd.concat(history, ignore_index=True),
    )


def _split(
    inputs: Sequence[np.ndarray], averages: Sequence[np.ndarray], scaled: bool, seed: int
) -> tuple[Episodes, Episodes]:
    """Voxels to learn from, and held-out ones: the last of three or more subjects, or a fifth."""
    usable = []
    for X, Y in zip(inputs, averages, strict=True):
        mean, scale = voxel_moments(Y)
        enough = np.isfinite(Y).sum(axis=0) >= MIN_IMAGES
        if not enough.any():
            raise ValueError(
                f"a subject has {len(X)} images, and no voxel with responses to {MIN_IMAGES}: the "
                "pretraining needs more images of each subject"
            )
        usable.append(((Y - mean) / scale)[:, enough])
    queries = QUERIES_OF_CORRECTIONS if scaled else QUERIES
    if len(usable) >= _ENOUGH_SUBJECTS:
        return (
            Episodes(list(inputs[:-1]), usable[:-1], scaled, queries),
            Episodes([inputs[-1]], [usable[-1]], scaled, queries),
        )
    rng = np.random.default_rng(seed)
    parts = []
    for Y in usable:
        if Y.shape[1] < 2:
            raise ValueError("the pretraining needs at least 2 voxels of each subject")
        order = rng.permutation(Y.shape[1])
        n_held = max(1, len(order) // 5)
        parts.append((Y[:, np.sort(order[n_held:])], Y[:, np.sort(order[:n_held])]))
    known, held = zip(*parts, strict=True)
    return Episodes(list(inputs), list(known), scaled, queries), Episodes(
        list(inputs), list(held), scaled, queries
    )


def _some_voxels(episodes: Episodes, seed: int) -> np.ndarray:
    n = len(episodes.subject)
    return np.random.default_rng(seed).permutation(n)[:MOST_CHECKED]


def _fixed_episodes(episodes: Episodes, sizes: np.ndarray, seed: int) -> list[Episode]:
    """The same contexts each time, of each size."""
    voxels = _some_voxels(episodes, seed)
    return [episodes.draw(voxels, int(n), np.random.default_rng([seed, int(n)])) for n in sizes]


def _penalties(known: Episodes, sizes: np.ndarray, seed: int) -> np.ndarray:
    """Penalty of ridge with the smallest error at each size, one for all voxels."""
    best = []
    for episode in _fixed_episodes(known, sizes, seed):
        errors = []
        for alpha in ALPHAS:
            weights = ridge_weights(episode.images, episode.responses, float(alpha))
            errors.append(_error(predicted(episode.new_images, weights), episode))
        best.append(ALPHAS[int(np.argmin(errors))])
    return np.array(best)


def _error(predictions: torch.Tensor, episode: Episode) -> float:
    return float((predictions - episode.new_responses).square().mean())


def _errors(
    net: InContextNet, checked: Sequence[Episode], of_ridge: tuple[np.ndarray, np.ndarray]
) -> tuple[list[float], list[float]]:
    """Squared error of the net, and of the weights that it starts from (of 0), at each size."""
    device = next(net.parameters()).device
    of_net, of_start = [], []
    for episode in checked:
        some = on(episode, device)
        with torch.inference_mode():
            alpha = alpha_at(some.responses.shape[1], *of_ridge)
            own = inferred(net, some.images, some.responses, alpha).float()
            of_net.append(_error(predicted(some.new_images, own), some))
            start = ridge_weights(some.images, some.responses, alpha)
            former = torch.zeros_like(own) if net.start is None else start
            of_start.append(_error(predicted(some.new_images, former), some))
    return of_net, of_start


def _gain(
    net: InContextNet, held: Episodes, sizes: np.ndarray, alphas: np.ndarray, run: TrainingRun
) -> np.ndarray:
    # Contexts other than those at which the weights of the net were chosen.
    checked = _fixed_episodes(held, sizes, run.random_state + 1)
    of_net, of_start = _errors(net.eval(), checked, (sizes, alphas))
    return 1 - np.array(of_net) / np.array(of_start)


def _train(
    net: InContextNet,
    known: Episodes,
    held: Episodes,
    stage: Stage,
    of_ridge: tuple[np.ndarray, np.ndarray],
    n_steps: int,
    number: int,
    run: TrainingRun,
) -> pd.DataFrame:
    """Train the net in one stage; return the history."""
    longest = known.longest
    few, many = (min(n, longest) for n in stage.context)
    steps = max(1, round(stage.share * n_steps))
    synthetic = stage.voxels == "synthetic"
    kind = "mixed" if net.start is not None and not synthetic else stage.voxels
    seed = [run.random_state, number]

    def loss(module: Any, batch: Any) -> dict[str, Any]:
        rng = np.random.default_rng([*seed, batch.step])
        # Short contexts as often as long ones, which take longer.
        n = (
            round(few * (many / few) ** rng.random())
            if net.start is not None
            else (int(rng.integers(few, many + 1)))
        )
        drawn = known.draw(batch["voxel"].cpu().numpy(), n, rng, kind)
        episode = on(drawn, batch.device)
        alpha = alpha_at(n, *of_ridge)
        weights = inferred(module, episode.images, episode.responses, alpha)
        targets = episode.new_responses
        if net.start is not None:
            # What ridge makes of these images: a correction is small beside the noise of trials.
            best = ridge_weights(episode.new_images, targets, alpha_at(targets.shape[1], *of_ridge))
            targets = predicted(episode.new_images, best)
        errors = predicted(episode.new_images, weights) - targets
        return {"loss": errors.square().mean()}

    checked = _fixed_episodes(held, of_ridge[0], run.random_state)

    def evaluate(module: Any) -> dict[str, float]:
        of_net, of_start = _errors(module, checked, of_ridge)
        return {"held_out_gain": float(np.mean(1 - np.array(of_net) / np.array(of_start)))}

    voxels = np.arange(len(known.subject))
    # Of synthetic voxels nothing is held out: the last weights are kept.
    choice: dict[str, Any] = {} if synthetic else {"monitor": "held_out_gain"}
    if net.start is not None:
        choice["ema_decay"] = EMA
    result = run.train(
        net,
        loss,
        Examples(voxel=(voxels, voxels)),
        run.settings(
            n_steps=steps,
            warmup_steps=min(50, steps),
            schedule=Cosine(0.1),
            report_every=max(1, steps // N_EVALUATIONS),
            clip_norm=1.0,
            **choice,
        ),
        name=f"stage-{number + 1}",
        identity={"context": [few, many], "alphas": of_ridge[1].tolist()},
        evaluate=evaluate,
    )
    return result.history
