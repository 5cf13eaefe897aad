"""The benchmark end to end: against hand-made cross-validation, stopped, failing, leaking."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc.benchmarking import BenchmarkResult, inputs
from brainenc.encoders import BaseEncoder, make_encoder
from brainenc.encoders import tokens as token_features
from brainenc.model_selection import image_folds

FEW = {"n_bootstraps": 50, "n_permutations": 19, "n_draws": 10, "controls": False, "verbose": False}


class Told(BaseEncoder):
    """Predicts what it is given as features; counts its fits in a file."""

    def __init__(self, features=None, *, log=None, fail_at=None):
        self.features = features
        self.log = log
        self.fail_at = fail_at

    def _fit(self, features, betas):
        if self.log is not None:
            n_fits = len(Path(self.log).read_text()) if Path(self.log).exists() else 0
            if n_fits == self.fail_at:
                raise KeyboardInterrupt
            with open(self.log, "a") as file:
                file.write(".")
        elif self.fail_at is not None:
            raise RuntimeError("the net exploded")
        return features

    def _predict(self, features):
        return features


@pytest.fixture(scope="module")
def data():
    return brainenc.datasets.simulate_subject(120, 40, random_state=0)


@pytest.fixture(scope="module")
def result(data):
    encoders = {"ridge": brainenc.RidgeEncoder(brainenc.PixelFeatures(size=8))}
    return brainenc.benchmark(data, encoders, cv=3, **FEW)


def test_scores_are_those_of_cross_validation_by_hand(data, result):
    X = brainenc.PixelFeatures(size=8).transform(data.images)
    averages = np.nanmean(data.betas, axis=1)
    predicted, measured, errors = [], [], []
    for train, test in image_folds(3, 120):
        encoder = brainenc.RidgeEncoder(features=None).fit(X[train], data.betas[train])
        prediction = encoder.predict(X[test])
        predicted.append(prediction - prediction.mean(0))
        measured.append(averages[test] - averages[test].mean(0))
        errors.append(np.square(prediction - averages[test]))
    x, y = np.concatenate(predicted), np.concatenate(measured)
    r = [np.corrcoef(x[:, v], y[:, v])[0, 1] for v in range(40)]
    row = result.encoders.set_index("encoder").loc["ridge"]
    assert row["r"] == pytest.approx(np.mean(r), abs=1e-5)
    assert row["mse"] == pytest.approx(np.mean(np.concatenate(errors)), rel=1e-5)
    rois = result.rois[result.rois["encoder"] == "ridge"].set_index("roi")
    for roi, voxels in data.rois().items():
        assert rois.loc[roi, "r"] == pytest.approx(np.mean(np.array(r)[voxels]), abs=1e-5)
        assert rois.loc[roi, "n_voxels"] == len(voxels)
    for metric in ("r", "r2", "mse_z", "mse_trials", "pattern_r", "identification"):
        assert row[f"{metric}_low"] < row[metric] < row[f"{metric}_high"], metric


def test_tables_are_tidy(data, result):
    assert list(result.encoders["encoder"]) == ["mean", "ridge"]
    assert not result.maps.duplicated(["encoder", "voxel"]).any()
    assert len(result.maps) == 2 * 40
    assert len(result.voxels) == 2 * 3 * 40
    assert set(result.maps.columns) >= {"r", "p", "q", "noise_ceiling", "roi", "hemisphere"}
    ceiling = data.noise_ceiling().to("r").values
    ridge = result.maps[result.maps["encoder"] == "ridge"]
    np.testing.assert_allclose(ridge["noise_ceiling"], ceiling)
    usable = ceiling >= 0.2
    np.testing.assert_allclose(ridge["r_normalized"][usable], (ridge["r"] / ceiling)[usable])
    assert ridge["r_normalized"][~usable].isna().all()


def test_the_mean_is_the_null_and_its_r_is_undefined(result):
    mean = result.encoders.set_index("encoder").loc["mean"]
    assert np.isnan(mean["r"])
    assert mean["n_undefined"] == 40
    assert mean["identification"] == pytest.approx(0.5)
    assert mean["pattern_r"] > 0.5  # uncentred betas: the voxel-mean map alone does this
    assert mean["r2"] <= 0


def test_a_perfect_encoder_reaches_the_ceiling_and_noise_is_not_significant(data):
    rng = np.random.default_rng(0)
    features = {"truth": data.truth.signal, "noise": rng.standard_normal(data.truth.signal.shape)}
    encoders = {"truth": Told(), "noise": Told()}
    result = brainenc.benchmark(
        data, encoders, features=features, references=False, n_permutations=199, n_bootstraps=200,
        verbose=False,
    )  # fmt: skip
    table = result.encoders.set_index("encoder")
    # 120 images: s.e. of r/ceiling is about .1 per voxel, and voxels share images.
    assert table.loc["truth", "r_normalized"] == pytest.approx(1, abs=0.06)
    assert table.loc["truth", "n_significant"] > 30
    assert table.loc["noise", "n_significant"] <= 2
    pair = result.pairs.query("metric == 'r' and roi == 'all'").iloc[0]
    assert pair["difference"] == pytest.approx(
        table.loc["truth", "r"] - table.loc["noise", "r"], abs=1e-6
    )
    assert pair["low"] > 0
    assert pair["p"] == pytest.approx(2 / 201)
    assert not [w for w in result.warnings if "above the noise ceiling" in w]


def test_an_encoder_that_saw_the_test_trials_is_called_out(data):
    leaked = np.nanmean(data.betas, axis=1)
    cheat = {"encoders": {"cheat": Told()}, "features": leaked, "references": False}
    with pytest.warns(UserWarning, match="features of cheat seem to contain the betas"):
        result = brainenc.benchmark(data, **cheat, **FEW)
    assert any("cheat: r is credibly above the noise ceiling" in w for w in result.warnings)


def test_a_failing_encoder_is_reported_and_the_others_finish(data):
    encoders = {"broken": Told(fail_at=0), "ridge": brainenc.RidgeEncoder()}
    with pytest.warns(RuntimeWarning, match="broken failed: RuntimeError: the net") as caught:
        result = brainenc.benchmark(data, encoders, features=data.truth.tokens, cv=3, **FEW)
    assert len(caught) == 1  # of three folds
    assert caught[0].filename == __file__
    assert result.summary()["failed"].to_dict()["broken"] == "RuntimeError: the net exploded"
    assert result.summary()["failed"].to_dict()["ridge"] == ""
    table = result.encoders.set_index("encoder")
    assert table.loc["broken", "error"] == "RuntimeError: the net exploded"
    assert np.isnan(table.loc["broken", "r"])
    assert table.loc["ridge", "r"] > 0.1
    assert any("broken failed: RuntimeError" in w for w in result.warnings)
    assert "broken" not in set(result.pairs["encoder_a"]) | set(result.pairs["encoder_b"])


def test_a_stopped_run_is_taken_up_where_it_was(data, tmp_path):
    log = tmp_path / "fits"
    tokens = np.asarray(data.truth.signal)
    run = {"cv": 4, "features": tokens, "references": False, "out": tmp_path / "run"} | FEW
    with pytest.raises(KeyboardInterrupt):
        brainenc.benchmark(data, {"told": Told(log=str(log), fail_at=3)}, **run)
    assert log.read_text() == "..."
    assert not (tmp_path / "run" / "encoders.csv").exists()
    # Fits finished before the stop are those of an encoder that would have stopped: the same key.
    log.write_text("....")
    result = brainenc.benchmark(data, {"told": Told(log=str(log), fail_at=3)}, **run)
    assert log.read_text() == "....."  # one more fit, not four
    whole = brainenc.benchmark(data, {"told": Told()}, **(run | {"out": None}))
    pd.testing.assert_frame_equal(result.maps, whole.maps)


@pytest.mark.slow
def test_another_parameter_or_other_data_is_fitted_anew(data, tmp_path):
    log = tmp_path / "fits"
    run = {"cv": 3, "references": False, "out": tmp_path / "run"} | FEW
    signal = np.asarray(data.truth.signal)
    brainenc.benchmark(data, {"told": Told(log=str(log))}, features=signal, **run)
    brainenc.benchmark(data, {"told": Told(log=str(log))}, features=signal, **run)
    assert log.read_text() == "..."
    brainenc.benchmark(data, {"told": Told(log=str(log))}, features=signal + 1, **run)
    assert log.read_text() == "......"
    brainenc.benchmark(
        data, {"told": Told(log=str(log))}, features=signal + 1, **(run | {"random_state": 1})
    )
    assert log.read_text() == "........."


@pytest.mark.slow
def test_a_killed_run_is_taken_up(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, time, brainenc
            from brainenc.encoders import BaseEncoder
            class Slow(BaseEncoder):
                def _fit(self, features, betas):
                    print("fit", flush=True)
                    time.sleep(float(sys.argv[1]))
                    return features[:, : betas.shape[2]]
                def _predict(self, features):
                    return features[:, :20]
            data = brainenc.datasets.simulate_subject(60, 20)
            features = data.truth.tokens[:, :, 0].repeat(2, 1)
            brainenc.benchmark(data, {{"slow": Slow()}}, features=features, cv=5,
                references=False, out={str(tmp_path / "out")!r}, verbose=False,
                n_bootstraps=20, n_permutations=9)
            """
        )
    )
    process = subprocess.Popen([sys.executable, script, "0.3"], stdout=subprocess.PIPE, text=True)
    for _ in range(3):  # two finished, the third under way
        assert process.stdout.readline() == "fit\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    again = subprocess.run(
        [sys.executable, script, "0"], capture_output=True, text=True, check=True
    )
    assert again.stdout.count("fit") == 3
    assert len(BenchmarkResult.load(tmp_path / "out").encoders) == 1


def test_features_are_computed_once_for_all_folds_and_encoders(data):
    class Counting(brainenc.PixelFeatures):
        n_images = 0

        def _extract(self, batch):
            Counting.n_images += len(batch)
            return super()._extract(batch)

    encoders = {
        "one": brainenc.RidgeEncoder(Counting(size=4)),
        "two": brainenc.RidgeEncoder(Counting(size=4), alphas=[10.0]),
    }
    brainenc.benchmark(data, encoders, cv=3, **FEW)
    assert Counting.n_images == 120


def test_ridge_as_a_reference_gets_averages_of_tokens_of_too_many_images(data, monkeypatch):
    n = data.n_images
    tokens = np.random.default_rng(0).standard_normal((n, 16, 3)).astype(np.float16)
    told = {"told": brainenc.ROITransformerEncoder(), "too": brainenc.MindReaderEncoder()}
    entries, _ = inputs.collect(data, told, tokens, True, False)
    assert entries["ridge"].X is tokens
    monkeypatch.setattr(token_features, "TOKENS_IN_MEMORY", 4 * tokens.size - 1)
    entries, _ = inputs.collect(data, told, tokens, True, False)
    assert entries["ridge"].X is tokens  # the kernel form reads them from their file
    monkeypatch.setattr(inputs, "MAX_KERNEL_IMAGES", n - 1)
    monkeypatch.setattr(token_features, "MAX_LINEAR", 12)
    entries, _ = inputs.collect(data, told, tokens, True, False)
    assert list(entries) == ["mean", "ridge", "told", "too"]
    grid = tokens.astype(np.float32).reshape(n, 2, 2, 2, 2, 3).mean((2, 4)).reshape(n, 12)
    np.testing.assert_allclose(entries["ridge"].X, grid, atol=1e-6)
    assert entries["told"].X is tokens
    assert entries["ridge"].key != entries["told"].key


@pytest.mark.slow
def test_references_are_added_and_not_doubled(data):
    signal = np.asarray(data.truth.signal)
    run = {"cv": 3} | FEW
    added = brainenc.benchmark(data, {"told": Told()}, features=signal, **run)
    assert list(added.encoders["encoder"]) == ["mean", "ridge", "told"]
    own = {"my mean": brainenc.MeanEncoder(), "my ridge": brainenc.RidgeEncoder()}
    kept = brainenc.benchmark(data, own, features=signal, **run)
    assert list(kept.encoders["encoder"]) == ["my mean", "my ridge"]
    two = {"a": Told(), "b": Told()}
    each = brainenc.benchmark(data, two, features={"a": signal, "b": signal[:, ::-1]}, **run)
    assert list(each.encoders["encoder"]) == ["mean", "ridge", "ridge (for b)", "a", "b"]


@pytest.mark.slow
def test_any_joblib_backend_gives_the_same_scores(data):
    images = np.arange(data.n_images)
    folds = [(images[10:], images[:10]), (images[:-10], images[-10:])]  # 110 to learn from
    network = make_encoder(
        "mindreader", sizes={"n_channels": 4, "hidden": 16}, n_members=1, n_epochs=1, device="cpu"
    )

    def run(**how):
        return brainenc.benchmark(
            data, {"network": network}, features=data.truth.tokens, cv=folds, **how, **FEW
        )

    serial = run()
    assert not any("made the same predictions" in warning for warning in serial.warnings)
    for backend in ("loky", "threading"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            parallel = run(n_jobs=None)
        pd.testing.assert_frame_equal(parallel.maps, serial.maps, check_exact=True)
        assert parallel.warnings == serial.warnings


def test_a_pipeline_takes_part(data):
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(brainenc.PixelFeatures(size=8), brainenc.RidgeEncoder(features=None))
    ridge = brainenc.RidgeEncoder(brainenc.PixelFeatures(size=8))
    both = brainenc.benchmark(data, {"pipeline": pipeline, "ridge": ridge}, cv=3, **FEW)
    table = both.encoders.set_index("encoder")
    assert table.loc["pipeline", "r"] == pytest.approx(table.loc["ridge", "r"], abs=1e-6)


def test_voxels_without_data_or_repeats_are_counted_not_scored(data):
    betas = data.betas.copy()
    betas[:, :, 5] = np.nan
    betas[:, 1:, 6] = np.nan
    holed = brainenc.EncodingData(data.images, betas, data.voxels)
    result = brainenc.benchmark(
        holed, {"ridge": brainenc.RidgeEncoder()}, features=data.truth.tokens, cv=3, **FEW
    )
    ridge = result.maps[result.maps["encoder"] == "ridge"].set_index("voxel")
    assert np.isnan(ridge.loc[5, ["r", "mse", "p", "noise_ceiling"]].astype(float)).all()
    assert np.isfinite(ridge.loc[6, "r"])
    assert np.isnan(ridge.loc[6, "r_normalized"])
    assert result.encoders.set_index("encoder").loc["ridge", "n_undefined"] == 1
    assert "1 of 40 voxels have no data; their scores are NaN." in result.warnings
    assert "2 of 40 voxels have no noise ceiling." in result.warnings
    assert 2 < result.manifest["noise_ceiling"]["n_trials"] < 3  # of the voxels that have data


def test_without_repeats_rois_or_ceiling(data, tmp_path):
    plain = brainenc.EncodingData(data.images, data.betas[:, 0].copy())
    result = brainenc.benchmark(
        plain, {"ridge": brainenc.RidgeEncoder()}, features=data.truth.tokens, cv=3, **FEW
    )
    assert result.rois.empty
    row = result.encoders.set_index("encoder").loc["ridge"]
    assert np.isfinite(row["r"])
    assert np.isnan(row["noise_ceiling"])
    reason = "there are no repeats, and the voxel table has no ncsnr"
    assert f"40 of 40 voxels have no noise ceiling: {reason}." in result.warnings
    assert "<html" in result.to_html(tmp_path / "report.html").read_text()


def test_saved_tables_come_back(result, tmp_path):
    loaded = BenchmarkResult.load(result.save(tmp_path / "run"))
    for table in ("encoders", "rois", "pairs", "maps", "voxels"):
        pd.testing.assert_frame_equal(
            getattr(loaded, table), getattr(result, table), check_dtype=False
        )
    assert loaded.warnings == result.warnings
    assert loaded.manifest["data"] == result.manifest["data"]
    maps = tmp_path / "run" / "maps.csv"
    maps.write_bytes(maps.read_bytes()[: maps.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"maps\.csv is truncated or was changed"):
        BenchmarkResult.load(tmp_path / "run")
    maps.unlink()
    with pytest.raises(FileNotFoundError, match=r"maps\.csv"):
        BenchmarkResult.load(tmp_path / "run")


def test_names_that_look_like_numbers_or_nothing_survive(data, tmp_path):
    voxels = data.voxels.assign(roi=np.where(data.voxels["roi"] == "FFA", "NA", "01"), r="None")
    odd = brainenc.EncodingData(data.images, data.betas, voxels)
    result = brainenc.benchmark(
        odd, {"NA": Told()}, features=np.asarray(data.truth.signal), references=False, **FEW
    )
    loaded = BenchmarkResult.load(result.save(tmp_path / "run"))
    assert list(loaded.encoders["encoder"]) == ["NA"]
    assert set(loaded.rois.query("atlas == 'roi'")["roi"]) == {"NA", "01"}
    assert (loaded.maps["r_of_voxel"] == "None").all()
    np.testing.assert_allclose(loaded.maps["r"], result.maps["r"])


def test_a_run_in_which_everything_failed_still_shows_itself(data, tmp_path):
    tokens = data.truth.tokens
    with pytest.warns(RuntimeWarning, match="<broken> failed"):
        result = brainenc.benchmark(
            data, {"<broken>": Told(fail_at=0)}, features=tokens, references=False, **FEW
        )
    assert "broken" in repr(result)
    assert "the net exploded" in repr(result)
    assert "<broken>" not in result._repr_html_()
    assert "&lt;broken&gt;" in result._repr_html_()
    assert "the net exploded" in result.to_html(tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_networks_that_differ_in_weights_alone_are_told_apart(data, tmp_path):
    import torch
    from sklearn.pipeline import make_pipeline

    def features(seed):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8, 8), torch.nn.Tanh())
        return brainenc.TorchFeatures(net, "1", preprocess=_as_floats, pool="flatten")

    def r(encoders, **run):
        result = brainenc.benchmark(data, encoders, cv=3, references=False, **(FEW | run))
        return result.encoders.set_index("encoder")["r"]

    both = r({str(seed): brainenc.RidgeEncoder(features(seed)) for seed in (0, 1)})
    alone = r({"1": brainenc.RidgeEncoder(features(1))})
    assert both["1"] == pytest.approx(alone["1"], abs=1e-9)
    assert both["0"] != pytest.approx(both["1"], abs=1e-4)
    # A pipeline computes its features itself; its key must know the weights all the same.
    for seed in (0, 1):
        pipeline = make_pipeline(features(seed), brainenc.RidgeEncoder(None))
        found = r({"net": pipeline}, out=tmp_path / "run")
        assert found["net"] == pytest.approx(both[str(seed)], abs=1e-6)


def _as_floats(image):
    import torch

    return torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255


def test_the_manifest_names_the_features(data):
    spaces = {"gabor": brainenc.RidgeEncoder(brainenc.GaborPyramid(n_scales=2, verbose=False))}
    manifest = brainenc.benchmark(data, spaces, cv=3, **FEW).manifest
    described = manifest["settings"]["encoders"]["gabor"]
    assert described["parameters"]["features"]["extractor"].endswith("GaborPyramid")
    assert described["parameters"]["features"]["n_scales"] == 2
    assert manifest["settings"]["cv"] == 3


def test_features_that_cannot_be_had_do_not_stop_the_others(data):
    class Unavailable(brainenc.PixelFeatures):
        def _extract(self, batch):
            raise FileNotFoundError("weights.pt is not there")

    encoders = {
        "clip": brainenc.RidgeEncoder(Unavailable()),
        "pixels": brainenc.RidgeEncoder(brainenc.PixelFeatures(size=4)),
    }
    with pytest.warns(RuntimeWarning, match="clip failed: FileNotFoundError"):
        result = brainenc.benchmark(data, encoders, cv=3, **FEW)
    table = result.encoders.set_index("encoder")
    assert table.loc["clip", "error"] == "FileNotFoundError: weights.pt is not there"
    assert np.isfinite(table.loc["pixels", "r"])
    with pytest.raises(FileNotFoundError, match="not there"):
        brainenc.benchmark(data, {"clip": encoders["clip"]}, cv=3, **FEW)


def test_a_data_set_or_a_model_is_never_written_over(data, result, tmp_path):
    data.save(tmp_path / "subject.brain")
    brainenc.MeanEncoder().fit(data.images, data.betas).save(tmp_path / "model")
    for folder, content in (("subject.brain", "a data set"), ("model", "a saved encoder")):
        before = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        with pytest.raises(FileExistsError, match=f"holds {content}"):
            brainenc.benchmark(data, {"mean": brainenc.MeanEncoder()}, out=tmp_path / folder, **FEW)
        with pytest.raises(FileExistsError, match=f"holds {content}"):
            result.save(tmp_path / folder)
        assert {p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} == before


def test_files_of_no_run_are_never_written_over(data, result, tmp_path):
    (tmp_path / "voxels.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is of no run and holds voxels\.csv"):
        brainenc.benchmark(data, {"mean": brainenc.MeanEncoder()}, out=tmp_path, **FEW)
    with pytest.raises(FileExistsError, match=r"holds voxels\.csv"):
        result.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["voxels.csv"]
    # Other files do no harm, and a run may be written over by another.
    (tmp_path / "voxels.csv").rename(tmp_path / "notes.txt")
    for _ in range(2):
        result.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_odd_names_stay_inside_the_folder_and_apart(data, tmp_path):
    names = ["..", "a/b", "a_b", "é" * 300]
    features = np.asarray(data.truth.signal)
    result = brainenc.benchmark(
        data, {name: Told() for name in names}, features=features, references=False,
        out=tmp_path / "run", **FEW,
    )  # fmt: skip
    assert list(result.encoders["encoder"]) == names
    assert result.encoders["r"].notna().all()
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_lost_predictions_are_made_again(data, tmp_path):
    run = {"features": np.asarray(data.truth.signal), "references": False, "cv": 3} | FEW
    first = brainenc.benchmark(data, {"told": Told()}, out=tmp_path / "run", **run)
    files = sorted((tmp_path / "run").glob("pairs/*/*/predictions.npy"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:200])
    again = brainenc.benchmark(data, {"told": Told()}, out=tmp_path / "run", **run)
    pd.testing.assert_frame_equal(again.maps, first.maps)


def test_the_same_ridge_is_not_fitted_twice(data):
    pixels = brainenc.PixelFeatures(size=4)
    encoders = {
        "ridge": brainenc.RidgeEncoder(pixels),
        "banded": brainenc.BandedRidgeEncoder({"pixels": pixels}),
    }
    result = brainenc.benchmark(data, encoders, cv=3, **FEW)
    assert list(result.encoders["encoder"]) == ["mean", "ridge", "banded"]
    odd = brainenc.benchmark(
        data, {"mean": Told()}, features=np.asarray(data.truth.signal), cv=3, **FEW
    )
    assert list(odd.encoders["encoder"]) == ["mean (reference)", "ridge", "mean"]


def test_the_ceiling_is_that_of_the_images_tested():
    """Test images repeated four times, training images shown once: a common design."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((200, 30))
    betas = signal[:, None] + 1.5 * rng.standard_normal((200, 4, 30))
    train, test = np.arange(120), np.arange(120, 200)
    betas[train, 1:] = np.nan
    data = brainenc.EncodingData(rng.integers(0, 255, (200, 4, 4), dtype=np.uint8), betas)
    result = brainenc.benchmark(
        data, {"told": Told()}, cv=[(train, test)], features=signal, references=False, **FEW
    )
    told = result.encoders.iloc[0]
    # r of the true signal with averages of 4 trials; of all images' averages it would be .64.
    # The s.e. of a mean of 30 voxels over 80 images is about .01 for r and for the ceiling.
    assert told["noise_ceiling"] == pytest.approx((1 + 1.5**2 / 4) ** -0.5, abs=0.03)
    assert told["r_normalized"] == pytest.approx(1, abs=0.05)
    assert result.manifest["noise_ceiling"]["n_trials"] == 4


def test_a_ceiling_of_zero_divides_nothing(data):
    noise = brainenc.EncodingData(
        data.images, np.random.default_rng(0).standard_normal(data.betas.shape)
    )
    result = brainenc.benchmark(
        noise, {"told": Told()}, features=np.asarray(data.truth.signal), min_ceiling=0, **FEW
    )
    ceiling = noise.noise_ceiling().values
    assert (ceiling == 0).any()
    told = result.maps.query("encoder == 'told'")
    assert told["r_normalized"][ceiling == 0].isna().all()
    assert np.isfinite(told["r_normalized"][ceiling > 0]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"encoders": brainenc.RidgeEncoder()}, TypeError, "dict of name to encoder"),
        ({"encoders": {"ridge": brainenc.RidgeEncoder}}, TypeError, "scikit-learn estimators"),
        ({"encoders": {" ": brainenc.RidgeEncoder()}}, ValueError, "empty name"),
        ({"data": (1, 2)}, TypeError, "data must be an EncodingData, got tuple"),
        ({"n_bootstraps": 0}, ValueError, "n_bootstraps=0"),
        ({"cv": 100}, ValueError, r"fold \d+ has 11\d train and 1 test images"),
    ],
)
def test_arguments_of_a_wrong_kind(data, arguments, error, message):
    given = {"data": data, "encoders": {"ridge": brainenc.RidgeEncoder()}} | arguments
    with pytest.raises(error, match=message):
        brainenc.benchmark(**given, features=np.asarray(data.truth.signal), verbose=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cv": 500}, "500 folds need at least 500 images"),
        ({"features": np.ones((7, 3))}, "features has 7 rows, but there are 120 images"),
        ({"features": {"rigde": np.ones((120, 3))}}, r"features names \['rigde'\]"),
    ],
)
def test_bad_arguments_stop_before_anything_is_written(data, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        brainenc.benchmark(
            data, {"ridge": brainenc.RidgeEncoder()}, out=tmp_path / "run", **arguments
        )
    assert not (tmp_path / "run").exists()


class ToldOfVoxels(BaseEncoder):
    """Predicts the ROI number that the voxel table gave it."""

    def __init__(self, features=None, *, rois=None):
        self.features = features
        self.rois = rois

    def with_voxels(self, voxels):
        return ToldOfVoxels(self.features, rois=voxels["roi"].tolist())

    def _fit(self, features, betas):
        return self._predict(features)

    def _predict(self, features):
        numbers = np.unique(self.rois, return_inverse=True)[1]
        return np.tile(numbers, (len(features), 1)) + features[:, :1]


def test_encoders_are_told_about_the_voxels(data, tmp_path):
    features = np.random.default_rng(0).standard_normal((120, 3))
    encoders = {"told": ToldOfVoxels()}
    result = brainenc.benchmark(data, encoders, features=features, cv=2, out=tmp_path, **FEW)
    assert (result.encoders["error"] == "").all()
    (file,) = tmp_path.glob("pairs/told-*/fold0/predictions.npy")
    predicted = np.load(file)[0]
    numbers = np.unique(data.voxels["roi"], return_inverse=True)[1]
    np.testing.assert_allclose(predicted - predicted[0], numbers - numbers[0], atol=1e-5)
    assert encoders["told"].rois is None


class CountedBetas(np.ndarray):
    """Counts the values that are taken out of it by an index."""

    n_values = 0

    def __getitem__(self, index):
        found = np.asarray(self)[index]
        CountedBetas.n_values += np.size(found)
        return found


def test_betas_are_read_no_more_often_than_needed(data):
    betas = data.betas.view(CountedBetas)
    counted = brainenc.EncodingData(data.images, betas, data.voxels)
    assert isinstance(counted.betas, CountedBetas)
    CountedBetas.n_values = 0
    brainenc.benchmark(
        counted,
        {"ridge": brainenc.RidgeEncoder()},
        features=data.truth.tokens,
        references=False,
        cv=5,
        check=False,
        **FEW,
    )
    # s.d. of 4/5 of the images in five folds, in two passes: 8. Rows of the fits: 5. The rest are
    # the noise ceiling, complete voxels and cautions; what is scored is taken up unindexed.
    assert CountedBetas.n_values < 20 * betas.size
