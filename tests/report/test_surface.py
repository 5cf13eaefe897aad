import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import brainenc
from brainenc.brain.surfaces import FSAVERAGE, FSAVERAGE5
from brainenc.brain.volumes import Volume
from brainenc.report import NothingToDraw, render_report, surface


def test_vertices_of_fsaverage_keep_their_place_on_fsaverage5():
    """The template's own vertices: position in, position out, hemisphere by hemisphere."""
    voxels = pd.DataFrame({"vertex": [5, FSAVERAGE - 1, 10241, 5], "hemisphere": list("LLRR")})
    maps = surface.on_fsaverage5([0.5, 9.0, 0.1, 0.2], voxels)
    assert maps["lh"].shape == maps["rh"].shape == (FSAVERAGE5,)
    assert dict(pd.Series(maps["lh"]).dropna()) == {5: 0.5}
    assert dict(pd.Series(maps["rh"]).dropna()) == {5: np.float32(0.2), 10241: np.float32(0.1)}


@pytest.fixture(scope="module")
def head():
    """Voxels of 4 mm all over an MNI152 box, with their millimetres."""
    affine = np.array([[-4.0, 0, 0, 90], [0, 4, 0, -126], [0, 0, 4, -72], [0, 0, 0, 1]])
    shape = (46, 55, 46)
    position = np.indices(shape).reshape(3, -1).T
    return pd.DataFrame(position, columns=list("ijk")), shape, affine


def test_a_volume_in_template_space_is_seen_where_it_is(head):
    """Each voxel holds its own coordinate: the map must be the vertices' coordinates."""
    voxels, shape, affine = head
    volume = Volume(shape, affine, space="MNI152")
    millimetres = voxels.to_numpy() @ affine[:3, :3].T + affine[:3, 3]
    for axis in (0, 1):
        maps = surface.on_fsaverage5(millimetres[:, axis], voxels, volume)
        for name in ("lh", "rh"):
            template = surface._template(name)
            middle = (template["pial"][0] + template["white"][0])[:, axis] / 2
            # Samples through the ribbon, whose middle moves by a millimetre or two.
            assert np.nanmax(np.abs(maps[name] - middle)) < 1
            if axis == 0:  # x grows to the right, and hardly a vertex lies across the midline
                side = {"lh": -1, "rh": 1}[name]
                assert np.nanmean(side * maps[name] > 0) > 0.99
    assert np.nanmax(maps["lh"]) < 90


def test_where_the_cortex_is_not_known_nothing_is_drawn(head):
    voxels, shape, affine = head
    with pytest.raises(NothingToDraw, match="native space"):
        surface.on_fsaverage5(np.ones(len(voxels)), voxels, Volume(shape, affine))
    with pytest.raises(NothingToDraw, match="no volume"):
        surface.on_fsaverage5(np.ones(len(voxels)), voxels)
    nothing = {name: np.full(FSAVERAGE5, np.nan) for name in ("lh", "rh")}
    with pytest.raises(NothingToDraw, match="No voxel with a value"):
        brainenc.plot_surface(nothing)
    with pytest.raises(ValueError, match="must be a dict"):
        brainenc.plot_surface(np.ones(5))
    with pytest.raises(ValueError, match=r"values\['lh'\] \(5,\)"):
        brainenc.plot_surface({"lh": np.ones(5), "rh": np.ones(5)})


@pytest.fixture(scope="module")
def on_cortex(make_result):
    """A benchmark whose voxels are vertices at the back of both hemispheres."""
    places = []
    for name in ("lh", "rh"):
        back = np.argsort(surface._template(name)["infl"][0][:, 1])[:400]
        places.append(pd.DataFrame({"vertex": back, "hemisphere": name}))
    table = pd.concat(places, ignore_index=True)
    result = make_result(["ridge"], n_voxels=len(table))
    maps = pd.concat([result.maps.reset_index(drop=True), table], axis=1)
    return make_result(["ridge"], n_voxels=len(table), maps=maps)


def test_colours_are_where_the_values_are():
    """Only vertices at the back have a value: seen from outside, the front is grey."""
    maps = {}
    for name in ("lh", "rh"):
        y = surface._template(name)["infl"][0][:, 1]
        maps[name] = np.where(y < np.median(y), 1.0, np.nan)
    figure = brainenc.plot_surface(maps, cmap="autumn", limits=(0, 2))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    orange = (pixels.max(axis=2) - pixels.min(axis=2)) > 100
    width = orange.shape[1] / 6.6
    lateral_left, lateral_right = (
        np.nonzero(orange[:, int(c * width) : int((c + 1) * width)])[1].mean() for c in (0, 5)
    )
    # The left hemisphere from outside looks to the left, so that its back is on the right.
    assert lateral_left > 0.55 * width
    assert lateral_right < 0.45 * width


def test_the_view_to_turn_about_has_the_hemispheres_side_by_side(monkeypatch):
    shown = {}

    def kept(mesh, values, **options):
        shown.update(options, mesh=mesh, values=values)

    monkeypatch.setattr("nilearn.plotting.view_surf", kept)
    maps = {"lh": np.full(FSAVERAGE5, 1.0), "rh": np.full(FSAVERAGE5, 3.0)}
    brainenc.plot_surface(maps, interactive=True)
    coordinates, faces = shown["mesh"]
    # The left one lies to the left, apart from the right one, and a face is of one of the two.
    np.testing.assert_array_equal(shown["values"], np.where(coordinates[:, 0] < 0, 1, 3))
    assert (np.ptp(shown["values"][faces], axis=1) == 0).all()
    assert set(faces.ravel()) == set(range(2 * FSAVERAGE5))
    # Sulci are where they are in the figure: the mesh and its depth are of one hemisphere.
    for half, name in enumerate(("lh", "rh")):
        rows = slice(half * FSAVERAGE5, (half + 1) * FSAVERAGE5)
        np.testing.assert_array_equal(shown["bg_map"][rows], surface._template(name)["sulc"])
    # 0 is among the colours though no value is near it.
    assert (shown["vmin"], shown["vmax"]) == (0, 3)


@pytest.mark.slow
def test_the_report_shows_the_cortex_and_loads_nothing(on_cortex):
    static = render_report(on_cortex)
    assert '<h2 id="surface">' in static
    assert "data:image/png;base64," in static
    assert "script-src" not in static
    turning = render_report(on_cortex, surface="interactive")
    assert turning.count("<iframe") == 1
    assert not re.search(r"<(link|script|img)[^>]*(href|src)=&#34;http", turning)
    assert "favicon" not in turning
    assert '<h2 id="surface">' not in render_report(on_cortex, surface="none")
    with pytest.raises(ValueError, match="surface='3d'"):
        render_report(on_cortex, surface="3d")


def test_reports_without_positions_on_the_template_say_why_there_is_no_map(head, make_result):
    def note(page):
        return re.search(r'<h2 id="surface">.*?<p class="nothing">(.*?)</p>', page, re.DOTALL)[1]

    assert note(render_report(make_result())) == (
        "No map of the cortex: the voxels have no vertex and hemisphere, and no volume."
    )
    _, shape, affine = head
    manifest = {"data": {"name": "x", "volume": Volume(shape, affine).to_json()}}
    native = make_result(manifest=manifest)
    assert "the volume is in native space" in note(render_report(native))
    assert 'id="figure-slices"' not in render_report(native)
    at = np.argwhere(np.ones((2, 2, 10)))
    for k, name in enumerate("ijk"):
        native.maps[name] = np.tile(at[:, k], 2)
    assert 'id="figure-slices"' in render_report(native)
    failed = make_result()
    failed.maps["r"] = np.nan
    assert "no encoder has an r" in note(render_report(failed))


# -------------------------------------------------------------------- flat


def test_the_flat_map_has_the_values_of_its_faces_and_outlines_around_rois():
    values, labels = {}, {}
    for name in ("lh", "rh"):
        y = surface._template(name)["pial"][0][:, 1]
        values[name] = np.where(y < -60, y, np.nan)
        labels[name] = np.where(y < -80, "V1", "").astype(object)
    figure = brainenc.plot_surface(values, view="flat", outlines=labels, limits=(-110, 0))
    axes = figure.axes[0]
    coloured = [each for each in axes.collections if each.get_cmap().name == "inferno"]
    assert len(coloured) == 2
    for name, drawn in zip(("lh", "rh"), coloured, strict=True):
        faces = surface._template(name)["flat"][1]
        expected = pd.DataFrame(values[name][faces]).mean(axis=1).dropna()
        np.testing.assert_allclose(drawn.get_array(), expected, rtol=1e-5)
    assert [text.get_text() for text in axes.texts] == ["V1", "V1"]
    # Every point of an outline is half-way between a vertex inside and one outside.
    lines = [each for each in axes.collections if each not in coloured and len(each.get_paths())]
    outline = lines[1].get_paths()[0].vertices
    template = surface._template("lh")
    x, y = template["flat"][0][:, :2].T
    x = x - x[np.unique(template["flat"][1])].max() - 7.5
    a, b = template["flat"][1][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).T
    across = (labels["lh"][a] == "V1") != (labels["lh"][b] == "V1")
    middles = np.column_stack([x[a] + x[b], y[a] + y[b]])[across] / 2
    near = np.abs(outline[:, None] - middles[None]).sum(axis=2).min(axis=1)
    assert near.max() < 1e-3


def test_flat_maps_take_axes_and_a_column_of_the_data():
    back = np.argsort(surface._template("lh")["infl"][0][:, 1])[:400]
    voxels = pd.DataFrame({"vertex": back, "hemisphere": "lh", "visual": ["V1"] * 200 + [""] * 200})
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    data = brainenc.EncodingData(images, rng.standard_normal((3, 400)), voxels)
    axes = Figure().subplots()
    figure = brainenc.plot_surface(np.ones(400), data, view="flat", outlines="visual", ax=axes)
    assert figure is axes.figure
    assert axes.texts[0].get_text() == "V1"
    with pytest.raises(ValueError, match="outlines='LO' is not a column"):
        brainenc.plot_surface(np.ones(400), data, view="flat", outlines="LO")
    with pytest.raises(ValueError, match="view='round'"):
        brainenc.plot_surface(np.ones(400), data, view="round")
    with pytest.raises(ValueError, match="are for view='flat'"):
        brainenc.plot_surface(np.ones(400), data, outlines="visual")
