"""Maps on the cortical surface of fsaverage5, by nilearn: figures or interactive views."""

import base64
import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from brainenc.brain.surfaces import FSAVERAGE, FSAVERAGE5, HEMISPHERES, to_hemispheres
from brainenc.brain.volumes import Volume, to_nifti
from brainenc.conversion import check_row_order, numeric_array
from brainenc.data.encoding_data import EncodingData
from brainenc.report.flatmap import flat_figure
from brainenc.report.style import MUTED, NothingToDraw, short, styled

#: Hemisphere and view of each panel of a row.
VIEWS = (
    ("lh", "lateral"),
    ("lh", "medial"),
    ("lh", "ventral"),
    ("rh", "ventral"),
    ("rh", "medial"),
    ("rh", "lateral"),
)

#: Number of encoders on the cortex in the report; a row of views takes a few seconds.
N_SHOWN = 2

#: Spaces whose volumes match fsaverage.
TEMPLATES = ("MNI152",)


def plot_surface(
    values: Any,
    data: EncodingData | None = None,
    *,
    title: str = "",
    cmap: str = "inferno",
    limits: tuple[float, float] | None = None,
    view: str = "inflated",
    outlines: Any = None,
    interactive: bool = False,
    ax: Any = None,
) -> Any:
    """Values on the cortex of fsaverage5: inflated in six views, flat, or interactive.

    Parameters
    ----------
    values : array, shape (n_voxels,), or dict of "lh" and "rh" to arrays
        One value per voxel of `data`; or without `data` one per vertex of fsaverage or fsaverage5.
        NaN is not drawn.
    data : EncodingData, optional
        Its voxel table has ``vertex`` (of fsaverage) and ``hemisphere``, or its volume lies in
        MNI152 space: voxels within the cortical ribbon are then projected onto it.
    title : str
    cmap : str
        A Matplotlib colour map.
    limits : (low, high), optional
        Limits of the colours; by default the range of the values.
    view : "inflated" or "flat"
    outlines : str, or dict of "lh" and "rh" to arrays of labels, optional
        ROIs whose outlines and names are drawn on the flat map: a column of ``data.voxels``, or
        without `data` a label per vertex, "" for none.
    interactive : bool
        Return an interactive page with a rotatable brain instead of a figure.
    ax : Axes, optional
        Axes to draw the flat map on.

    Returns
    -------
    matplotlib.figure.Figure, or nilearn's SurfaceView (``.save_as_html(path)``)

    Raises
    ------
    NothingToDraw : no value on the surface is finite, or the data have no positions on it.
    ValueError : arrays that fit neither the data nor the meshes, an unknown view or column, or
        outlines or `ax` for another view than "flat".

    Examples
    --------
    >>> import numpy as np
    >>> values = {name: np.linspace(0, 1, 10242) for name in ("lh", "rh")}
    >>> figure = plot_surface(values, view="flat", title="r")
    >>> figure.savefig("r.png")  # doctest: +SKIP
    """
    if view not in ("inflated", "flat"):
        raise ValueError(f"view={view!r} must be 'inflated' or 'flat'")
    if (outlines is not None or ax is not None) and (view != "flat" or interactive):
        raise ValueError("outlines and ax are for view='flat'")
    maps = on_template(values) if data is None else on_fsaverage5(values, data.voxels, data.volume)
    limits = limits or shown_range([maps])
    if interactive:
        return surface_view(maps, title=title, cmap=cmap, limits=limits)
    if view == "flat":
        labels = None if outlines is None else _labels_on_fsaverage5(outlines, data)
        meshes = {name: _template(name) for name in HEMISPHERES}
        look: dict[str, Any] = {"cmap": cmap, "limits": limits, "outlines": labels, "ax": ax}
        return flat_figure({title: maps}, meshes, **look)
    return surface_figure({title: maps}, cmap=cmap, limits=limits)


# ------------------------------------------------------------------ onto the surface


def on_fsaverage5(
    values: Any, voxels: pd.DataFrame, volume: Volume | None = None
) -> dict[str, np.ndarray]:
    """Values per voxel on the vertices of fsaverage5.

    Parameters
    ----------
    values : array, shape (n_voxels,)
    voxels : pandas.DataFrame, n_voxels rows
        With ``vertex`` and ``hemisphere``, or with ``i, j, k`` in `volume`.
    volume : Volume, optional
        In MNI152 space.

    Returns
    -------
    dict of "lh" and "rh" to array of float32, shape (10242,)
        Vertices keep their value (fsaverage vertices that are not in fsaverage5 are left out);
        nilearn's ``vol_to_surf`` averages a volume over the cortical ribbon. NaN elsewhere.

    Raises
    ------
    NothingToDraw : the voxels have no positions on the template's surface.
    """
    if {"vertex", "hemisphere"} <= set(voxels):
        maps = to_hemispheres(values, voxels, n_vertices=FSAVERAGE)
        return on_template(maps)
    if volume is None:
        raise NothingToDraw(
            "No map of the cortex: the voxels have no vertex and hemisphere, and no volume."
        )
    if volume.space not in TEMPLATES:
        raise NothingToDraw(
            f"No map of the cortex: the volume is in {volume.space} space, and only one in "
            f"{' or '.join(TEMPLATES)} space lies on the template's surface."
        )
    return _projected(values, voxels, volume)


def _labels_on_fsaverage5(outlines: Any, data: EncodingData | None) -> dict[str, np.ndarray]:
    """ROI of each vertex, "" for none."""
    if data is None:
        if not isinstance(outlines, Mapping) or set(outlines) != set(HEMISPHERES):
            raise ValueError('outlines must be a dict of "lh" and "rh" to a label per vertex')
        return {name: _labels_of(outlines[name], name) for name in HEMISPHERES}
    if not isinstance(outlines, str) or outlines not in data.voxels:
        columns = list(data.voxels.columns)
        raise ValueError(f"outlines={outlines!r} is not a column of the voxel table: {columns}")
    labels = data.voxels[outlines]
    names = labels.where(labels.notna(), "").map(str).to_numpy()
    known = [name for name in dict.fromkeys(names) if name]
    code = {name: float(i) for i, name in enumerate(known)}
    codes = np.array([code.get(name, np.nan) for name in names])
    if {"vertex", "hemisphere"} <= set(data.voxels):
        maps = on_fsaverage5(codes, data.voxels)
    else:
        maps = _projected(codes, data.voxels, data.volume, "nearest_most_frequent")  # type: ignore[arg-type]
    texts = np.array([*known, ""], dtype=object)
    return {
        name: texts[np.where(np.isfinite(values), values, len(known)).astype(int)]
        for name, values in maps.items()
    }


def _labels_of(labels: Any, name: str) -> np.ndarray:
    array = np.asarray(labels, dtype=object)
    if array.shape not in [(FSAVERAGE,), (FSAVERAGE5,)]:
        raise ValueError(
            f"outlines[{name!r}] {array.shape} must have {FSAVERAGE} (fsaverage) or {FSAVERAGE5} "
            "(fsaverage5) labels"
        )
    return np.array(["" if pd.isna(each) else str(each) for each in array[:FSAVERAGE5]], object)


def _projected(
    values: Any, voxels: pd.DataFrame, volume: Volume, interpolation: str = "linear"
) -> dict[str, np.ndarray]:
    from nilearn.surface import vol_to_surf

    image = to_nifti(values, voxels, shape=volume.shape, affine=volume.affine)
    maps = {}
    with warnings.catch_warnings():
        # Vertices without nearby voxels are NaN.
        warnings.filterwarnings("ignore", "Mean of empty slice")
        for name in HEMISPHERES:
            mesh = _template(name)
            maps[name] = vol_to_surf(
                image, mesh["pial"], inner_mesh=mesh["white"], interpolation=interpolation
            )
    return maps


def on_template(maps: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Maps on fsaverage5, whose vertices are the first ones of fsaverage."""
    if not isinstance(maps, Mapping) or set(maps) != set(HEMISPHERES):
        raise ValueError(
            'without data, values must be a dict of "lh" and "rh" to an array each; with values '
            "per voxel give data, too"
        )
    for name in HEMISPHERES:
        check_row_order(**{f"values[{name!r}]": maps[name], "mesh": ()})
    arrays = {
        name: numeric_array(maps[name], f"values[{name!r}]").astype(np.float32, copy=False)
        for name in HEMISPHERES
    }
    for name, array in arrays.items():
        if array.shape not in [(FSAVERAGE,), (FSAVERAGE5,)]:
            raise ValueError(
                f"values[{name!r}] {array.shape} must have {FSAVERAGE} (fsaverage) or {FSAVERAGE5} "
                "(fsaverage5) vertices"
            )
    return {name: array[:FSAVERAGE5] for name, array in arrays.items()}


def shown_range(maps: list[dict[str, np.ndarray]]) -> tuple[float, float]:
    """Smallest and largest finite value of several maps, including 0.

    Raises
    ------
    NothingToDraw : there is no finite value.
    """
    values = np.concatenate([each[name] for each in maps for name in HEMISPHERES])
    values = values[np.isfinite(values)]
    if not values.size:
        raise NothingToDraw("No voxel with a value lies on the surface.")
    return min(0.0, float(values.min())), max(0.0, float(values.max()))


# ------------------------------------------------------------------ drawing


@cache
def _template(hemisphere: str) -> dict[str, Any]:
    """Meshes and sulcal depth of fsaverage5, which nilearn ships."""
    from nilearn.datasets import fetch_surf_fsaverage
    from nilearn.surface import load_surf_data, load_surf_mesh

    files = fetch_surf_fsaverage("fsaverage5")
    side = {"lh": "left", "rh": "right"}[hemisphere]
    meshes = {
        kind: tuple(np.asarray(part) for part in _parts(load_surf_mesh(files[f"{kind}_{side}"])))
        for kind in ("pial", "white", "infl", "flat")
    }
    return {**meshes, "sulc": load_surf_data(files[f"sulc_{side}"])}


def _parts(mesh: Any) -> tuple[Any, Any]:
    return mesh.coordinates, mesh.faces


def surface_figure(
    maps: Mapping[str, dict[str, np.ndarray]], *, cmap: str, limits: tuple[float, float]
) -> Figure:
    """One row of six views per map, with the same colours.

    Parameters
    ----------
    maps : dict of title to maps as of `on_fsaverage5`
    cmap : str
    limits : (low, high)

    Returns
    -------
    Figure
    """
    from nilearn.plotting import plot_surf

    figure = Figure(figsize=(10.6, 1.75 * len(maps) + 0.35))
    figure.set_layout_engine("none")  # boxes are placed explicitly
    height = 1 - 0.35 / figure.get_figheight()
    rows = height / len(maps)
    for row, (title, hemispheres) in enumerate(maps.items()):
        bottom = height - (row + 1) * rows
        for column, (name, view) in enumerate(VIEWS):
            # Boxes overlap, since three-dimensional axes have wide margins.
            box = (column / 6.6 - 0.022, bottom - 0.1 * rows, 1 / 6.6 + 0.044, 1.05 * rows)
            axes = figure.add_axes(box, projection="3d", computed_zorder=False)
            axes.patch.set_alpha(0)
            template = _template(name)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Mean of empty slice|All-NaN|invalid value")
                plot_surf(
                    template["infl"], hemispheres[name], bg_map=template["sulc"],
                    hemi={"lh": "left", "rh": "right"}[name], view=view, cmap=cmap,
                    vmin=limits[0], vmax=limits[1], colorbar=False, axes=axes, figure=figure,
                    avg_method=_mean_of_known,
                )  # fmt: skip
        figure.text(0.005, bottom + 0.98 * rows, short(title, 60), weight="bold", va="top")
    for column, (name, view) in enumerate(VIEWS):
        place = (column + 0.5) / 6.6
        figure.text(place, 0.995, f"{name} {view}", ha="center", va="top", color=MUTED, size=8)
    bar = figure.add_axes((0.935, 0.15 * height, 0.012, 0.6 * height))
    figure.colorbar(ScalarMappable(Normalize(*limits), cmap), cax=bar)
    return figure


def _mean_of_known(face: np.ndarray) -> float:
    """Value of a face: the mean of its known vertices, so that a single one is visible."""
    known = face[np.isfinite(face)]
    return known.mean() if known.size else np.nan


def surface_view(
    maps: dict[str, np.ndarray], *, title: str = "", cmap: str, limits: tuple[float, float]
) -> Any:
    """Interactive view of both hemispheres side by side, by nilearn's ``view_surf``."""
    from nilearn.plotting import view_surf

    coordinates, faces, depth = _side_by_side()
    values = np.concatenate([maps[name] for name in HEMISPHERES])
    # nilearn writes the title into the page as it is: as its title, as JSON of a script, and as
    # text that plotly reads as HTML. Entities are right in all three.
    title = html.escape(title, quote=False)
    return view_surf(
        (coordinates, faces), values, bg_map=depth, cmap=cmap, vmin=limits[0], vmax=limits[1],
        symmetric_cmap=False, title=title or None, title_fontsize=16, colorbar_fontsize=14,
        threshold=None,
    )  # fmt: skip


def _side_by_side() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, right = (_template(name) for name in HEMISPHERES)
    moved = [left["infl"][0].copy(), right["infl"][0].copy()]
    # Inflated hemispheres would overlap.
    moved[0][:, 0] -= moved[0][:, 0].max() + 3
    moved[1][:, 0] -= moved[1][:, 0].min() - 3
    faces = np.vstack([left["infl"][1], right["infl"][1] + len(moved[0])])
    return np.vstack(moved), faces, np.concatenate([left["sulc"], right["sulc"]])


# ------------------------------------------------------------------ in the report


def report_panel(
    maps: pd.DataFrame, manifest: Mapping[str, Any], order: Sequence[str], kind: str
) -> dict[str, Any]:
    """Content of the report's section on the cortex.

    Parameters
    ----------
    maps : DataFrame
        ``BenchmarkResult.maps``.
    manifest : dict
        ``data.volume`` is the grid of ``i, j, k``.
    order : list of str
        Encoders, best first: `N_SHOWN` of those with an r are shown.
    kind : "static" or "interactive"

    Returns
    -------
    dict
        ``names``; ``figure``, a function that draws them; ``frame``, the interactive page of the
        best one, or None.

    Raises
    ------
    NothingToDraw : positions of voxels on the cortex are unknown, or no voxel there has an r.
    """
    volume = Volume.from_json(manifest.get("data", {}).get("volume"))
    shown: dict[str, dict[str, np.ndarray]] = {}
    for name in order:
        rows = maps[maps["encoder"] == name]
        if rows["r"].notna().any() and len(shown) < N_SHOWN:
            try:
                shown[name] = on_fsaverage5(rows["r"].to_numpy(), rows, volume)
            except NothingToDraw:
                raise
            except ValueError as error:  # such as vertices of another mesh
                raise NothingToDraw(f"No map of the cortex: {error}.") from None
    if not shown:
        raise NothingToDraw("No map of the cortex: no encoder has an r.")
    limits = shown_range(list(shown.values()))
    look: dict[str, Any] = {"cmap": "inferno", "limits": limits}
    best = next(iter(shown))
    frame = None
    if kind == "interactive":
        view = surface_view(shown[best], title=f"{short(best)}: Pearson r", **look)
        # Its icon would be loaded from the internet.
        frame = re.sub(r"<link[^>]*favicon[^>]*>", "", view.get_standalone())
    return {
        "names": list(shown),
        "figure": lambda: surface_figure(shown, **look),
        "frame": frame,
    }


def figure_to_img(figure: Figure, alt: str) -> Markup:
    """Figure as a raster ``<img>``: tens of thousands of faces are too many for SVG."""
    buffer = io.BytesIO()
    with styled(), warnings.catch_warnings():
        # A picture has only the characters of Matplotlib's font; the page beside it has the name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    content = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img alt="{}" style="max-width:100%" src="data:image/png;base64,{}">').format(
        alt, content
    )
