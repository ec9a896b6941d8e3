"""Folders of timm, where timm is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelwright.errors import InputError
from modelwright.evaluate import predictions

timm = pytest.importorskip("timm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import torch
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=3).eval()
    save_for_hf(model, str(tmp_path / "net"), model_config={"label_names": ["b", "a", "c"]}, safe_serialization=True)
    return tmp_path / "net"


def test_a_folder_says_what_timm_says(folder: Path) -> None:
    import torch

    x = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    bank = predictions([str(folder)], (x, ["a", "b", "c", "a"]), split="test")
    model = timm.create_model("resnet10t", pretrained=False, num_classes=3).eval()
    from safetensors.torch import load_file

    model.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.inference_mode():
        wanted = model(torch.from_numpy(x)).numpy()[:, [1, 0, 2]]  # the task's classes are a, b, c
    assert (bank.scale, bank.classes) == ("logits", ("a", "b", "c"))
    np.testing.assert_allclose(bank.values[0], wanted, rtol=1e-5, atol=1e-6)
    pictures = np.random.default_rng(1).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    assert np.isfinite(predictions([str(folder)], (pictures, ["a", "b", "c", "a"]), split="test").values).all()


def test_what_timm_does_not_know_is_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"resnet10t"', '"resnet10tt"'))
    with pytest.raises(InputError, match="cannot build 'resnet10tt'"):
        predictions([str(folder)], (np.zeros((2, 3, 32, 32), np.float32), ["a", "b"]), split="test")
