import pytest
import torch

from brainenc.devices import full_precision, resolve_device


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
