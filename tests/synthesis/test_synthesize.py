"""synthesize: planted maxima, the true response of made images, its null, generators, refusals."""

import numpy as np
import pytest
import torch
from torch import nn

import brainenc
from brainenc.synthesis import (
    Generator,
    PCAImages,
    SceneSearch,
    SearchGenerator,
    objective,
    synthesize,
)


@pytest.fixture(scope="module")
def images():
    return brainenc.datasets.simulate_subject(60, 10, 1, random_state=1).images


class Template(nn.Module):
    """Product of an image with a template: the maximum on a sphere is known."""

    def __init__(self, template):
        super().__init__()
        self.register_buffer("template", template)

    def forward(self, images):
        return (images * self.template).sum((1, 2, 3))


def test_directions_are_those_of_pca_and_span_the_images(images):
    from sklearn.decomposition import PCA

    generator = PCAImages(images, n_components=12)
    flat = images.transpose(0, 3, 1, 2).reshape(60, -1) / 255
    pca = PCA(12, svd_solver="full").fit(flat)
    own = generator.directions.reshape(12, -1).numpy()
    np.testing.assert_allclose(
        np.square(own).sum(axis=1), pca.explained_variance_ * 59 / 60, rtol=1e-3
    )
    cosine = np.abs((own * pca.components_).sum(axis=1)) / np.linalg.norm(own, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-3)
    np.testing.assert_allclose(generator.mean.numpy().ravel(), flat.mean(axis=0), atol=1e-5)


def test_images_keep_within_range_radius_and_contrast(images):
    generator = PCAImages(images, n_components=30, radius=2, max_contrast=0.1)
    z = generator.start(3, seed=0)
    for i in range(40):
        z = generator.step(z, torch.randn(z.shape, generator=torch.Generator().manual_seed(i)), i)
    far = generator.step(100 * z, torch.zeros_like(z), 0)
    assert float(far.norm(dim=1).max()) == pytest.approx(2 * np.sqrt(30), rel=1e-4)
    pixels = generator.decode(far)
    assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1
    deviation = (pixels - generator.mean).square().mean((1, 2, 3)).sqrt()
    assert float(deviation.max()) <= 0.1 + 1e-4
    assert torch.equal(generator.start(3, seed=4), generator.start(3, seed=4))


def test_ascent_reaches_the_maximum_of_a_linear_objective(images):
    """On the ball the best latent points along the template's coordinates."""
    generator = PCAImages(images, n_components=10, radius=0.2)
    template = torch.randn((3, 64, 64), generator=torch.Generator().manual_seed(0))
    made = synthesize(Template(template), generator, n=2, n_steps=150)
    best = torch.tensordot(generator.directions, template, dims=3)
    best = best / best.norm() * generator.radius
    cosine = nn.functional.cosine_similarity(made.latents, best[None])
    assert float(cosine.min()) > 0.99
    assert (made.scores["objective"] > made.scores["start"]).all()
    assert made.images.dtype == np.uint8


@pytest.mark.slow
def test_made_images_drive_the_true_voxels_above_the_best_of_1000_natural_ones():
    data = brainenc.datasets.simulate_subject(n_images=2000, n_voxels=120, random_state=0)
    v1 = data.rois()["V1v"]
    fit, natural = np.arange(1000), np.arange(1000, 2000)
    gabor = brainenc.GaborPyramid(verbose=False)
    encoder = brainenc.RidgeEncoder(gabor).fit(data.images[fit], data.betas[fit][:, :, v1])
    other = brainenc.GaborPyramid(n_scales=3, n_orientations=6, size=64, verbose=False)
    judge = brainenc.RidgeEncoder(other).fit(data.images[natural], data.betas[natural][:, :, v1])
    generator = PCAImages(data.images[fit])
    made = synthesize(
        objective(encoder), generator, 2, n_steps=40, judge=objective(judge),
        natural=data.images[natural[:200]],
    )  # fmt: skip
    true = data.truth.respond(made.images)[:, v1].mean(axis=1)
    best = data.truth.signal[natural][:, v1].mean(axis=1).max()
    assert true.min() > best
    summary = made.summary()
    assert summary.loc["made", "judge"] > summary.loc["natural, mean", "judge"]
    # At no more contrast than natural images have.
    assert made.scores["contrast"].max() <= made.natural["contrast"].max()

    # The null: an encoder of permuted images is climbed as high, and the voxels do not follow.
    order = np.random.default_rng(0).permutation(1000)
    wrong = brainenc.RidgeEncoder(gabor).fit(data.images[fit], data.betas[fit][order][:, :, v1])
    drive = objective(wrong)
    null = synthesize(drive, generator, 2, n_steps=40)
    predicted = drive.score(data.images[natural])
    assert null.scores["objective"].min() > predicted.max()
    assert data.truth.respond(null.images)[:, v1].mean(axis=1).max() < best


def brightness_on_the_left(pictures):
    return pictures[:, :, :20].astype(float).mean(axis=(1, 2, 3))


def test_a_search_keeps_the_better_and_knows_the_objects():
    search = SceneSearch(48, n_objects=1)
    made = synthesize(brightness_on_the_left, search, n=5, n_steps=40, random_state=3)
    assert (made.scores["objective"] >= made.scores["start"]).all()
    assert made.scores["objective"].mean() > made.scores["start"].mean() + 20
    assert (np.diff(made.history["mean"]) >= 0).all()
    objects = search.objects(made.latents)
    assert len(objects) == 5
    # The pictures are those of the latents, which a simulated subject can be shown.
    np.testing.assert_array_equal(search.decode(made.latents), made.images)
    truth = brainenc.datasets.simulate_subject(20, 10, 1, random_state=0).truth
    assert np.isfinite(truth.respond(made.images, objects)).all()
    again = synthesize(brightness_on_the_left, SceneSearch(48, n_objects=1), n=5, n_steps=40,
                       random_state=3)  # fmt: skip
    np.testing.assert_array_equal(again.images, made.images)


def test_a_search_for_a_category_finds_it():
    """The true response is the objective, by the objects: the search itself can do it."""
    truth = brainenc.datasets.simulate_subject(200, 60, 1, random_state=0)
    ffa = truth.rois()["FFA"]
    search = SceneSearch(48, n_objects=1)

    class Known(SceneSearch):
        def decode(self, z):
            self.shown = self.objects(z)
            return super().decode(z)

    search = Known(48, n_objects=1)

    def true_response(pictures):
        return truth.truth.respond(pictures, search.shown)[:, ffa].mean(axis=1)

    made = synthesize(true_response, search, n=6, n_steps=30, random_state=0)
    assert (search.objects(made.latents)["category"] == "face").mean() >= 5 / 6
    assert made.scores["objective"].mean() > np.percentile(truth.truth.signal[:, ffa].mean(1), 95)


def test_protocols_are_recognised_by_their_methods(images):
    assert isinstance(PCAImages(images, 5), Generator)
    assert isinstance(SceneSearch(48), SearchGenerator)
    assert not isinstance(PCAImages(images, 5), SearchGenerator)


def test_wrong_arguments_are_refused(images):
    generator, drive = PCAImages(images, 5), Template(torch.zeros((3, 64, 64)))
    with pytest.raises(TypeError, match="climbs gradients"):
        synthesize(brightness_on_the_left, generator)
    with pytest.raises(TypeError, match="neither start, decode"):
        synthesize(drive, object())
    with pytest.raises(ValueError, match="n=0"):
        synthesize(drive, generator, 0)
    with pytest.raises(ValueError, match=r"n_steps=1\.5"):
        synthesize(drive, generator, n_steps=1.5)
    with pytest.raises(TypeError, match="judge is a str"):
        synthesize(drive, generator, 1, n_steps=1, judge="other")
    with pytest.raises(ValueError, match="judge gave"):
        synthesize(drive, generator, 2, n_steps=1, judge=lambda pictures: np.zeros(5))
    with pytest.raises(ValueError, match="not finite"):
        synthesize(Template(torch.full((3, 64, 64), np.nan)), generator, 2, n_steps=1)
    for wrong, message in (
        ({"n_components": 60}, "n_components=60"), ({"radius": 0}, "radius=0"),
        ({"rate": -1}, "rate=-1"), ({"max_contrast": 0}, "max_contrast=0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            PCAImages(images, **{"n_components": 5, **wrong})
    with pytest.raises(ValueError, match="n_objects=0"):
        SceneSearch(n_objects=0)
    with pytest.raises(ValueError, match="change=0"):
        SceneSearch(change=0)


def test_a_page_has_the_pictures_and_counts_what_is_above_the_best_natural_image(images, tmp_path):
    from brainenc.report import made_pictures

    natural = images[:9]
    made = synthesize(
        brightness_on_the_left, SceneSearch(48, n_objects=1), n=3, n_steps=4,
        judge=lambda pictures: pictures[..., 0].astype(float).mean(axis=(1, 2)), natural=natural,
    )  # fmt: skip
    scores = made.scores.assign(judge=[300.0, 1.0, 400.0])  # no natural red channel is above 255
    object.__setattr__(made, "scores", scores)
    page = made.to_html(tmp_path / "made.html", natural).read_text("utf-8")
    assert "By the judge, 2 of 3 are above the best of 9 natural images" in page
    assert "natural, best" in page
    assert 'src="data:image/png' in page
    figure = made_pictures(made.images, scores, (natural, made.natural))
    titles = [axes.get_title() for axes in figure.axes]
    best = int(made.natural["judge"].argmax())
    assert titles[2].splitlines()[0] == "made 2"
    assert titles[2].endswith("judge 400.000")
    assert titles[4].startswith(f"natural {best},\nbest by judge")
    np.testing.assert_array_equal(figure.axes[4].images[0].get_array(), natural[best])
    with pytest.raises(ValueError, match="natural has 8 images, but 9 were scored"):
        made.to_html(tmp_path / "made.html", natural[:8])
    alone = synthesize(brightness_on_the_left, SceneSearch(48), n=1, n_steps=1)
    page = alone.to_html(tmp_path / "alone.html").read_text("utf-8")
    assert "No judge was given" in page
    assert "natural" not in page.split("<h2>Made")[0].split("Pictures")[0]


def test_a_generator_that_leaves_the_range_of_pixels_is_refused(images):
    class Louder(PCAImages):
        """Within the range at the start, and outside after some steps."""

        def decode(self, z):
            return 0.5 + 0.02 * torch.tensordot(z, self.directions / self.directions.std(), dims=1)

        def step(self, z, gradient, i):
            return 3 * z

    template = torch.ones((3, 64, 64))
    with pytest.raises(ValueError, match=r"Louder\.decode gave images with pixels from"):
        synthesize(Template(template), Louder(images, n_components=5), n=2, n_steps=20)


@pytest.mark.parametrize("n_components", [2.5, 0, True, 10**6])
def test_numbers_of_components(images, n_components):
    with pytest.raises(ValueError, match=f"n_components={n_components} must be a whole number"):
        PCAImages(images, n_components)


class Floats(SceneSearch):
    def decode(self, z):
        return super().decode(z) / 255


def test_a_search_gives_pictures_of_8_bits():
    with pytest.raises(ValueError, match=r"Floats\.decode gave images .* in float64"):
        synthesize(brightness_on_the_left, Floats(32), n=2, n_steps=2)
