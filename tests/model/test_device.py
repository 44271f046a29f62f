import pytest
import torch

from tutelage.errors import RecipeError
from tutelage.model import device


def test_pick_device():
    assert device.pick_device("cpu") == torch.device("cpu")
    wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert device.pick_device().type == wanted
    with pytest.raises(RecipeError, match="'gpu' is unknown: give auto"):
        device.pick_device("gpu")
    with pytest.raises(RecipeError, match="CUDA devices; give auto or cpu"):
        device.pick_device("cuda:77")


@pytest.mark.parametrize(
    ("flags", "wanted"), [("fma avx512_bf16 x", True), ("amx_bf16", True), ("avx512f bf16", False)]
)
def test_bf16_on_cpu_only_where_the_processor_has_it(monkeypatch, flags, wanted):
    monkeypatch.setattr(device.Path, "read_text", lambda self: f"flags\t: {flags}\n")
    device.cpu_has_bf16.cache_clear()
    try:
        assert device.cpu_has_bf16() is wanted
        assert device.autocast_dtype("cpu") == (torch.bfloat16 if wanted else torch.float32)
        assert device.autocast_dtype("cpu", "bf16") == torch.bfloat16  # an explicit setting is obeyed
    finally:
        device.cpu_has_bf16.cache_clear()


def test_autocast_casts_or_does_nothing():
    x = torch.ones(2, 2)
    with device.autocast("cpu", "bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with device.autocast("cpu", "fp32"):
        assert (x @ x).dtype == torch.float32
    with pytest.raises(RecipeError, match="precision 'fp16' is unknown"):
        device.autocast("cpu", "fp16")


def test_in_a_container_memory_is_what_it_may_have(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    free, whole = device.memory_of(cpu)
    if whole is None:
        pytest.skip("this system does not tell")
    monkeypatch.setattr(device, "_CONTAINER", tmp_path)
    (tmp_path / "memory.current").write_text("600\n")
    for limit, expected in (("1000\n", (400, 1000)), ("500\n", (0, 500))):
        (tmp_path / "memory.max").write_text(limit)
        assert device.memory_of(cpu) == expected
    (tmp_path / "memory.max").write_text("max\n")
    assert device.memory_of(cpu)[1] == whole
    assert free is None or device.memory_of(cpu)[0] > 1000
