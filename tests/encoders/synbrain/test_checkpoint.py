import argparse
import fractions
import os
import pickle
import random
import re
import zipfile

import numpy as np
import pytest
import synbrain_oracles as oracles
import torch

from brainenc.encoders.synbrain import read_s2n, read_vae, write_s2n, write_vae
from brainenc.nets import S2N, BrainVAE

VAE_SIZES = {
    "n_tokens": 3,
    "token_width": 10,
    "pooled_length": 16,
    "n_halvings": 2,
    "n_channels": 16,
    "channel_multipliers": (1, 2, 4),
    "n_blocks": 1,
    "projector_width": 7,
}
S2N_SIZES = {
    "n_tokens": 5,
    "width": 12,
    "depth": 3,
    "n_heads": 2,
    "mlp_ratio": 2.5,
    "n_time_features": 8,
}


def make_vae(seed=0, **changes):
    return oracles.randomised(BrainVAE(**{**VAE_SIZES, **changes}), seed)


def make_s2n(seed=0, **changes):
    return oracles.randomised(S2N(**{**S2N_SIZES, **changes}), seed)


@pytest.fixture
def vae_file(tmp_path):
    return write_vae(tmp_path / "vae.pth", make_vae())


@pytest.fixture
def s2n_file(tmp_path):
    return write_s2n(tmp_path / "s2n.pt", make_s2n(0), make_s2n(1), args={"hidden_dim": 4})


def content_of(path):
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


def changed(path, change):
    """The file with its content changed in place by a function."""
    content = content_of(path)
    change(content)
    torch.save(content, path)
    return path


def assert_same_state(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_autoencoder_there_and_back_is_the_same_to_the_bit(vae_file):
    vae, sizes = read_vae(vae_file)
    assert {name: sizes[name] for name in VAE_SIZES} == VAE_SIZES
    assert_same_state(vae, make_vae())
    assert all(parameter.requires_grad for parameter in vae.parameters())


def test_mapper_there_and_back_is_the_same_to_the_bit(s2n_file):
    ema, sizes = read_s2n(s2n_file)
    model, _ = read_s2n(s2n_file, weights="model")
    assert sizes == S2N_SIZES
    assert_same_state(model, make_s2n(0))
    assert_same_state(ema, make_s2n(1))
    fixed = [name for name, parameter in ema.named_parameters() if not parameter.requires_grad]
    assert fixed == ["pos_embed"]


def test_the_layout_is_the_official_one(vae_file, s2n_file):
    vae, s2n = content_of(vae_file), content_of(s2n_file)
    assert all(key.startswith("module.") for key in vae["model"])
    assert vae["model"]["module.decoder.up.2.upsample.trans_conv.weight"].shape == (64, 64, 7)
    assert vae["model"]["module.encoder.down.1.block.0.nin_shortcut.weight"].shape == (32, 16, 1)
    assert vae["model"]["module.pre_projector_logvar.8.weight"].shape == (10, 7)
    assert list(s2n) == ["model", "ema", "opt", "args", "steps"]
    assert s2n["ema"]["blocks.2.adaLN_modulation.1.weight"].shape == (72, 12)
    assert s2n["args"] == argparse.Namespace(
        model_depth=3, model_head=2, prediction="x", hidden_dim=4
    )


def test_the_moving_average_is_the_model_where_none_is_given(tmp_path):
    path = write_s2n(tmp_path / "s2n.pt", make_s2n())
    assert_same_state(read_s2n(path, "ema")[0], read_s2n(path, "model")[0])


def test_read_weights_do_not_hang_on_the_file(vae_file):
    vae, _ = read_vae(vae_file)
    with open(vae_file, "r+b") as file:
        file.write(bytes(vae_file.stat().st_size))
    assert_same_state(vae, make_vae())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_precision_become_float32(vae_file, dtype):
    def cast(content):
        content["model"] = {key: weight.to(dtype) for key, weight in content["model"].items()}

    vae, _ = read_vae(changed(vae_file, cast))
    for key, weight in make_vae().state_dict().items():
        assert vae.state_dict()[key].dtype == torch.float32
        assert torch.equal(vae.state_dict()[key], weight.to(dtype).float())


def test_the_prefix_may_be_missing_or_be_there(vae_file, s2n_file):
    def without(content):
        content["model"] = {k.removeprefix("module."): v for k, v in content["model"].items()}

    def with_prefix(content):
        content["ema"] = {f"module.{k}": v for k, v in content["ema"].items()}

    assert_same_state(read_vae(changed(vae_file, without))[0], make_vae())
    assert_same_state(read_s2n(changed(s2n_file, with_prefix))[0], make_s2n(1))


def test_heads_can_be_given_where_the_file_has_none_or_others(s2n_file):
    changed(s2n_file, lambda content: content.pop("args"))
    with pytest.raises(ValueError, match=r"heads is not in it \(args\.model_head\); pass n_heads"):
        read_s2n(s2n_file)
    s2n, sizes = read_s2n(s2n_file, n_heads=3)
    assert sizes["n_heads"] == 3
    x = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(0))
    expected = oracles.s2n(x[0].double().numpy(), oracles.as_arrays(s2n), depth=3, n_heads=3)
    with torch.no_grad():
        # float32 against float64, values of about 1.
        np.testing.assert_allclose(s2n(x)[0], expected, atol=3e-6)
    with pytest.raises(ValueError, match="width=12 must be divisible by n_heads=5"):
        read_s2n(s2n_file, n_heads=5)


def test_nothing_stays_allowed_after_reading(s2n_file):
    before = set(torch.serialization.get_safe_globals())
    read_s2n(s2n_file)
    assert set(torch.serialization.get_safe_globals()) == before
    assert argparse.Namespace not in before


# Files that hold code


class Payload:
    """Makes a file when unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch '{self.target}'",)


class Foreign(argparse.Namespace):
    pass


def plain_pickle(path, payload):
    path.write_bytes(pickle.dumps({"model": payload}))


def legacy_file(path, payload):
    torch.save({"model": payload}, path, _use_new_zipfile_serialization=False)


def top_level(path, payload):
    torch.save(payload, path)


def beside_the_weights(path, payload):
    changed_unsafely(path, lambda content: content.update(optimizer=payload, opt=payload))


def in_the_namespace(path, payload):
    changed_unsafely(path, lambda content: content.update(args=argparse.Namespace(x=payload)))


def as_a_weight(path, payload):
    changed_unsafely(path, lambda content: content["model"].update({"module.x": payload}))


def newer_protocol(path, payload):
    torch.save({"model": payload}, path, pickle_protocol=4)


def changed_unsafely(path, change):
    content = content_of(path)
    change(content)
    torch.save(content, path)


HIDING_PLACES = [
    plain_pickle,
    legacy_file,
    top_level,
    beside_the_weights,
    in_the_namespace,
    as_a_weight,
    newer_protocol,
]


@pytest.mark.parametrize("hide", HIDING_PLACES)
def test_code_in_a_file_is_refused_and_not_run(hide, vae_file, s2n_file, tmp_path):
    target = tmp_path / "made by the payload"
    for path, read in [(vae_file, read_vae), (s2n_file, read_s2n)]:
        hide(path, Payload(target))
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read(path)
        assert not target.exists()
        # torch's own message advises to read the file unsafely.
        assert "weights_only" not in str(caught.value)
        assert "safe_globals" not in str(caught.value)


def test_the_payload_is_a_live_one(tmp_path):
    target = tmp_path / "made by the payload"
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists()


@pytest.mark.parametrize("foreign", [fractions.Fraction(1, 2), Foreign(model_head=2)])
def test_a_foreign_class_in_the_namespace_is_refused_by_name(s2n_file, foreign):
    changed(s2n_file, lambda content: setattr(content["args"], "more", foreign))
    name = type(foreign).__qualname__
    with pytest.raises(ValueError, match=rf"{name}, which is not data; refused"):
        read_s2n(s2n_file)


# Files that are something else, or damaged


def assert_refused(path, *, because="", read=(read_vae, read_s2n)):
    for reader in read:
        kind = "autoencoder" if reader is read_vae else "mapper"
        message = f"{re.escape(str(path))} cannot be read as a SynBrain {kind} checkpoint.*"
        with pytest.raises(ValueError, match=message + because):
            reader(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    for path in (tmp_path, tmp_path / "none.pth"):
        for read in (read_vae, read_s2n):
            with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
                read(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}q\x00.", "Größe\n".encode() * 999])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    assert_refused(path, because="truncated, or a file of another kind")


def test_archives_with_other_records_are_refused(tmp_path, vae_file):
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    assert_refused(tmp_path / "arrays.npz", because="damaged, or a file of another kind")
    with zipfile.ZipFile(vae_file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    for missing in ("archive/data.pkl", "archive/data/3"):
        with zipfile.ZipFile(tmp_path / "less.pth", "w") as archive:
            for name in set(records) - {missing}:
                archive.writestr(name, records[name])
        assert_refused(tmp_path / "less.pth", because="damaged")
    with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    assert_refused(tmp_path / "small.pth", because="compressed")


def test_torchscript_archives_are_refused(tmp_path):
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("script/constants.pkl", b"\x80\x02).")
        archive.writestr("script/data.pkl", b"\x80\x02).")
        archive.writestr("script/version", b"3\n")
    assert_refused(path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(vae_file, s2n_file, share):
    for path, read in [(vae_file, read_vae), (s2n_file, read_s2n)]:
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        assert_refused(path, because="truncated", read=[read])


def test_a_lost_block_is_noticed(vae_file):
    whole = bytearray(vae_file.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 64] = bytes(64)
    vae_file.write_bytes(whole)
    assert_refused(vae_file, because="checksum", read=[read_vae])


def test_damage_of_any_kind_gives_the_right_weights_or_one_kind_of_error(s2n_file):
    whole, right = s2n_file.read_bytes(), make_s2n(1)
    rng = random.Random(0)
    n_refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 8])):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        s2n_file.write_bytes(damaged)
        try:
            read, _ = read_s2n(s2n_file)
        except ValueError:
            n_refused += 1
        else:
            # The damage is in padding or in names that nothing depends on.
            assert_same_state(read, right)
    assert n_refused > 100


def test_damaged_pickles_are_refused_or_read(s2n_file):
    # With the right checksum, as somebody would write it who means harm.
    with zipfile.ZipFile(s2n_file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    rng = random.Random(0)
    n_refused = 0
    for _ in range(200):
        damaged = bytearray(records["archive/data.pkl"])
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with zipfile.ZipFile(s2n_file, "w") as archive:
            for name, record in records.items():
                archive.writestr(name, bytes(damaged) if name.endswith("data.pkl") else record)
        try:
            read_s2n(s2n_file)
        except ValueError:
            n_refused += 1
    assert n_refused > 100


# Files with other weights


def test_each_reader_names_the_other(vae_file, s2n_file):
    assert_refused(vae_file, because="use read_vae", read=[read_s2n])
    assert_refused(s2n_file, because="use read_s2n", read=[read_vae])


def test_weights_that_do_not_fit_are_listed(vae_file):
    def change(content):
        weights = content["model"]
        del weights["module.decoder.mid.attn_1.q.bias"]
        weights["module.surplus"] = torch.zeros(2)
        weights["module.post_projector.5.weight"] = torch.zeros(7, 6)

    changed(vae_file, change)
    because = (
        r"missing: decoder\.mid\.attn_1\.q\.bias; unexpected: surplus; "
        r"of another shape: post_projector\.5\.weight \(7, 6\) for \(7, 7\)"
    )
    assert_refused(vae_file, because=because, read=[read_vae])


def test_long_lists_are_cut(s2n_file):
    def change(content):
        content["ema"] = {k: v for k, v in content["ema"].items() if ".1.attn" not in k}
        content["ema"] |= {f"surplus{i}": torch.zeros(1) for i in range(70)}

    changed(s2n_file, change)
    assert_refused(s2n_file, because="surplus4 and 65 more", read=[read_s2n])


@pytest.mark.parametrize(
    ("weight", "because"),
    [
        # Terabytes out of one number.
        (torch.zeros(1).expand(10**6, 10**6), "claim .* bytes, more than the file has"),
        (torch.full((7, 8), float("nan")), "holds NaN or infinite values"),
        (torch.zeros(7, 8, dtype=torch.int64), "not a dense tensor of floats"),
        (torch.zeros(7, 8).to_sparse(), "not a dense tensor of floats"),
        (torch.zeros(7, 8, device="meta"), "not a dense tensor of floats"),
        ("a text", "not a dense tensor of floats"),
        (torch.zeros(()), r"pre_projector_mean\.2\.weight \(\) must have 2 dimensions"),
        (torch.zeros(7, 0), r"pre_projector_mean\.2\.weight \(7, 0\) must have 2 dimensions"),
    ],
)
def test_unsound_weights_are_refused(vae_file, weight, because):
    key = "module.pre_projector_mean.2.weight"
    changed(vae_file, lambda content: content["model"].update({key: weight}))
    assert_refused(vae_file, because=because, read=[read_vae])


@pytest.mark.parametrize(
    ("content", "because"),
    [
        ([1, 2], "it holds a list"),
        ({"weights": {}}, "it has no weights '(model|ema)'; its keys are weights"),
        ({"model": 3, "ema": 3}, "it has no weights"),
        ({"model": {"a": torch.zeros(1)}, "ema": {"a": torch.zeros(1)}}, "are not those of a"),
    ],
)
def test_other_content_is_refused(tmp_path, content, because):
    torch.save(content, tmp_path / "other.pt")
    assert_refused(tmp_path / "other.pt", because=because)


@pytest.mark.parametrize(
    ("args", "because"),
    [
        (argparse.Namespace(model_head="2"), "must be an int, not '2'"),
        (argparse.Namespace(model_head=0), "n_heads=0 must be positive"),
        (argparse.Namespace(model_head=2, prediction="v"), "args.prediction is 'v'"),
        ({"model_head": 2}, "heads is not in it"),
    ],
)
def test_arguments_that_make_no_mapper_are_refused(s2n_file, args, because):
    changed(s2n_file, lambda content: content.update(args=args))
    assert_refused(s2n_file, because=because, read=[read_s2n])


def test_weights_is_a_choice_of_two(s2n_file):
    with pytest.raises(ValueError, match="weights='last' must be"):
        read_s2n(s2n_file, weights="last")
    changed(s2n_file, lambda content: content.pop("ema"))
    assert_refused(s2n_file, because="has no weights 'ema'; its keys are model", read=[read_s2n])
    assert_same_state(read_s2n(s2n_file, weights="model")[0], make_s2n(0))


# Writing


def test_what_the_layout_cannot_hold_is_not_written(tmp_path):
    path = tmp_path / "none"
    with pytest.raises(ValueError, match="architecture='mlp'"):
        write_vae(path, make_vae(architecture="mlp"))
    with pytest.raises(ValueError, match="is folded"):
        write_s2n(path, make_s2n().fold_time())
    with pytest.raises(ValueError, match="is folded"):
        write_s2n(path, make_s2n(), make_s2n().fold_time())
    with pytest.raises(ValueError, match="ema has sizes"):
        write_s2n(path, make_s2n(), make_s2n(depth=1))
    assert not path.exists()


def test_a_writer_that_fails_leaves_the_former_file(vae_file, s2n_file):
    before = s2n_file.read_bytes()
    with pytest.raises(TypeError):
        write_s2n(s2n_file, make_s2n(), args={"cannot be pickled": (i for i in ())})
    assert s2n_file.read_bytes() == before
    assert sorted(p.name for p in s2n_file.parent.iterdir()) == ["s2n.pt", "vae.pth"]
