import pytest
import torch

from brainenc.devices import float32_convolutions, full_precision, resolve_device


def test_auto_takes_a_cuda_device_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto") == torch.device(expected)


def test_names_and_devices_pass_through():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


def test_an_absent_cuda_device_is_named():
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ValueError, match=rf"device='{absent}' was asked for.*\"auto\" or \"cpu\""):
        resolve_device(absent)


@pytest.mark.parametrize("wrong", ["gpu", "cuda:x", "meta", None, 3.5])
def test_what_is_no_device_is_refused(wrong):
    with pytest.raises(ValueError, match="is not one of"):
        resolve_device(wrong)


@pytest.mark.parametrize("newer", [False, True])
def test_full_precision_gives_the_users_choice_back(newer):
    """By the older and the newer of torch's names, which refuses to mix them."""
    matmul = torch.backends.cuda.matmul
    if newer and not hasattr(matmul, "fp32_precision"):
        pytest.skip("torch 2.9 brought the newer name")
    former = torch.get_float32_matmul_precision()
    try:
        if newer:
            matmul.fp32_precision = "tf32"
        else:
            torch.set_float32_matmul_precision("medium")
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not matmul.allow_tf32
        assert matmul.fp32_precision == "tf32" if newer else matmul.allow_tf32
        if not newer:
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(former)


@pytest.mark.parametrize("chosen", ["tf32", "ieee", "none"])
def test_float32_convolutions_give_the_users_choice_back(chosen):
    cudnn = torch.backends.cudnn
    if not hasattr(cudnn, "conv"):
        pytest.skip("torch 2.9 brought the newer name")
    former = cudnn.conv.fp32_precision
    try:
        cudnn.conv.fp32_precision = chosen  # and that of recurrent layers is another one
        found = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
        with float32_convolutions():
            assert cudnn.conv.fp32_precision == "ieee"
            assert not cudnn.allow_tf32  # by the older name too, which is refused if they differ
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == found
    finally:
        cudnn.conv.fp32_precision = former


@pytest.mark.parametrize("chosen", [True, False])
def test_float32_convolutions_and_the_older_name(chosen):
    cudnn = torch.backends.cudnn
    former = cudnn.allow_tf32
    try:
        cudnn.allow_tf32 = chosen
        with float32_convolutions():
            assert not cudnn.allow_tf32
        assert cudnn.allow_tf32 == chosen
    finally:
        cudnn.allow_tf32 = former
