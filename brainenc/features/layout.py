"""Axes of an activation: which one counts images, which channels, and which positions.

Networks differ in this, and layers of one network too: convolutions have channels first, Swin
transformers have them last, and attention layers may have tokens before images. Sizes do not say it
(7 × 7 × 768, or 16 tokens of width 16), but two probes do:

- other numbers of images: the axis whose size follows is that of the images;
- images that differ in one quarter only: along positions, *where* the activation changes follows
  the quarter; channels respond much the same wherever the change is. If this is not clear, earlier
  layers of the same sizes are looked at, and the network is tried on larger images, with which only
  axes of positions grow.

Where nothing says it, the user has to: nothing is guessed.
"""

import itertools
from collections.abc import Callable

import torch

#: Layouts by number of axes, to which activations are brought. N counts images, C channels.
ARRANGED = {2: "NC", 3: "NLC", 4: "NCHW"}

#: Share of the change that moves along an axis, above which it is an axis of positions.
_MOVES = 0.5
#: An axis of positions moves more than that of channels, by this factor at least.
_CLEARLY = 2.0
#: The only axis is of channels if less of the change moves along it.
_STAYS = 0.25

#: From images (b, channels, H, W) to the activation of a layer.
Run = Callable[[torch.Tensor], torch.Tensor]


def check_layout(layout: str) -> str | None:
    """Layout as given by a user; None for "auto".

    Raises
    ------
    ValueError : neither "auto" nor an order of N, C and axes of positions.
    """
    if layout == "auto":
        return None
    if isinstance(layout, str) and sorted(layout) in [sorted(known) for known in ARRANGED.values()]:
        return layout
    raise ValueError(
        f'layout={layout!r} must be "auto" or name the axes in order, such as "NCHW", "NHWC", '
        '"NLC", "LNC", "NCL" or "NC": N images, C channels, L tokens, H and W rows and columns'
    )


def arranged(activation: torch.Tensor, layout: str) -> torch.Tensor:
    """Activation with its axes in the order of `ARRANGED`.

    Examples
    --------
    >>> arranged(torch.zeros(2, 7, 7, 768), "NHWC").shape
    torch.Size([2, 768, 7, 7])
    """
    return activation.permute([layout.index(axis) for axis in ARRANGED[activation.ndim]])


def find_layout(
    run: Run, images: torch.Tensor, activation: torch.Tensor, module: torch.nn.Module
) -> str:
    """Axes of an activation, found by running the network on a few artificial images.

    Parameters
    ----------
    run : function from images to the activation of the layer
    images : tensor, shape (b, channels, H, W)
        Images that were run; artificial ones get their size and dtype.
    activation : tensor
        What `run` gave for them; two to four axes.
    module : torch.nn.Module
        The network, whose other layers are looked at if this one does not say it.

    Returns
    -------
    str : a letter per axis; see `check_layout`

    Raises
    ------
    ValueError : no axis counts the images, or channels and positions cannot be told apart.
    """
    n_probes = 1 + len(_QUARTERS) * _N_CONTENTS
    n_probes += n_probes == len(images)
    probes = _probes(images[0], n_probes)
    outputs = _outputs(run, probes, module)
    probed = outputs[-1]  # of the layer, after which the network was stopped
    batch = _batch_axis(activation.shape, probed.shape, len(images), n_probes)
    others = [axis for axis in range(activation.ndim) if axis != batch]
    channels = others[0] if len(others) == 1 else _channels_by_place(outputs, batch)
    if channels is None:
        channels = _channels_by_size(run, probes, probed.shape, others)
    if channels is None:
        raise ValueError(
            "it is not clear which of its axes are channels and which positions: give layout, a "
            f'letter per axis, such as "{ARRANGED[activation.ndim]}" or '
            f'"{"NCL" if activation.ndim == 3 else "NHWC"}"'
        )
    names = iter("HW" if activation.ndim == 4 else "L")
    letters = {batch: "N", channels: "C"}
    return "".join(letters.get(axis) or next(names) for axis in range(activation.ndim))


def _probes(image: torch.Tensor, n: int) -> torch.Tensor:
    """Artificial images: four equal quarters, and the same with another content in one quarter.

    Quarters are equal so that channels have the same to respond to everywhere. The content is
    coarse, which deep layers see better than noise of single pixels, and there are several contents
    for each quarter: where a network cuts patches across quarters, they differ. Images beyond these
    are copies.
    """
    height, width = image.shape[-2:]
    generator = torch.Generator().manual_seed(0)
    same, *contents = torch.rand(1 + _N_CONTENTS, image.shape[0], 4, 4, generator=generator)
    base = torch.cat([torch.cat([same, same], 1)] * 2, 2)
    cells = [base]
    for (row, column), content in itertools.product(_QUARTERS, contents):
        changed = base.clone()
        changed[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = content
        cells.append(changed)
    cells += [base] * (n - len(cells))
    chosen = torch.stack([_coarse(each, height, width) for each in cells])
    if not image.is_floating_point():
        chosen = 255 * chosen
    return chosen.to(image.dtype).to(image.device)


#: Row and column of quarters; each is followed by the one opposite it.
_QUARTERS = ((0, 0), (1, 1), (0, 1), (1, 0))
#: Contents that each quarter is changed to.
_N_CONTENTS = 4


def _coarse(cells: torch.Tensor, height: int, width: int) -> torch.Tensor:
    rows = torch.arange(height) * cells.shape[1] // height
    columns = torch.arange(width) * cells.shape[2] // width
    return cells[:, rows][:, :, columns]


def _batch_axis(shape: torch.Size, probed: torch.Size, n_images: int, n_probes: int) -> int:
    """Axis whose size is the number of images in both runs."""
    follow = [
        axis
        for axis in range(len(shape))
        if len(probed) == len(shape) and (shape[axis], probed[axis]) == (n_images, n_probes)
    ]
    same = len(probed) == len(shape) and all(
        shape[axis] == probed[axis] for axis in range(len(shape)) if axis not in follow
    )
    if len(follow) == 1 and same:
        return follow[0]
    raise ValueError(
        f"no axis of it counts the images (for {n_probes} images its shape is {tuple(probed)}), as "
        "in attention within windows, whose images are cut in pieces: choose a layer around it"
    )


def _outputs(run: Run, probes: torch.Tensor, module: torch.nn.Module) -> list[torch.Tensor]:
    """The activation, last, after outputs of earlier layers that have its shape."""
    outputs: list[torch.Tensor] = []

    def look(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            outputs.append(output)

    hooks = [part.register_forward_hook(look) for part in module.modules()]
    try:
        activation = run(probes)
    finally:
        for hook in hooks:
            hook.remove()
    alike = [output for output in outputs if output.shape == activation.shape]
    return [*alike, activation]


def _channels_by_place(outputs: list[torch.Tensor], batch: int) -> int | None:
    """Axis of the channels, by where activations change with each quarter; None if unclear.

    The output of an attention is much the same for all tokens, and other layers of the same sizes
    say what its axes are: all that say something must agree.
    """
    *earlier, activation = outputs
    sizes = [size for axis, size in enumerate(activation.shape) if axis != batch]
    # Axes of equal sizes, such as rows and columns, may change their places between layers.
    if len(set(sizes)) < 2 or (len(sizes) == 2 and sizes[0] == sizes[1]):
        earlier = []
    found = {_channels_of(output, batch) for output in (*earlier, activation)} - {None}
    return found.pop() if len(found) == 1 else None


def _channels_of(output: torch.Tensor, batch: int) -> int | None:
    values = output.movedim(batch, 0).double()
    change = (values[1 : 1 + len(_QUARTERS) * _N_CONTENTS] - values[0]).square()
    change = change.unflatten(0, (len(_QUARTERS), _N_CONTENTS)).sum(1)
    if not (change.flatten(1).sum(1) > 0).all():
        return None
    axes = [axis for axis in range(output.ndim) if axis != batch]
    moves = {axis: _moved(change, i + 1) for i, axis in enumerate(axes)}
    several = sorted((axis for axis in axes if output.shape[axis] > 1), key=lambda a: moves[a])
    if not several or moves[several[0]] > _MOVES:  # one channel, and positions at most
        single = [axis for axis in axes if output.shape[axis] == 1]
        return single[0] if single else None
    found, *places = several
    if not places:
        return found if moves[found] < _STAYS else None
    wanted = max(_MOVES, _CLEARLY * moves[found])
    return found if all(moves[axis] >= wanted for axis in places) else None


def _moved(change: torch.Tensor, axis: int) -> float:
    """Share of the change that moves along an axis between opposite quarters, 0 … 1."""
    profile = change.sum([i for i in range(1, change.ndim) if i != axis])
    profile = profile / profile.sum(1, keepdim=True)
    first, opposite = profile[[0, 2]], profile[[1, 3]]
    return float((first - opposite).abs().sum(1).mean() / 2)


def _channels_by_size(
    run: Run, probes: torch.Tensor, shape: torch.Size, others: list[int]
) -> int | None:
    """Axis that stays when images are larger; None if not one, or no larger ones are taken."""
    larger = torch.nn.functional.pad(probes.double(), (0, 64, 0, 64)).to(probes.dtype)
    try:
        found = run(larger).shape
    except Exception:  # networks say in their own ways that they take one size only
        return None
    if len(found) != len(shape):
        return None
    stay = [axis for axis in others if found[axis] == shape[axis]]
    return stay[0] if len(stay) == 1 else None
