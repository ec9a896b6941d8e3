"""Renew mergekit-0.1.5.npz: what mergekit itself makes of the tensors of cases.py.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install mergekit==0.1.5
    /tmp/peer/bin/python tests/golden/renew.py

It calls mergekit's own methods through its registry, on float32 tensors. Masks of DARE and DELLA are given to it by
replacing torch.bernoulli, because its random numbers are not ours; what it asks of that is kept for one case.
"""

from __future__ import annotations

import importlib.metadata
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from cases import CASES, RANKED, Case
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup

PEER = "0.1.5"
TARGET = Path(__file__).with_name(f"mergekit-{PEER}.npz")


def merged(case: Case) -> tuple[np.ndarray, list[np.ndarray]]:
    """The peer's result of one case, and the probabilities that it draws masks by."""
    models, base = case.tensors()
    tensors = [torch.from_numpy(array) for array in ([base] if case.base else []) + models]
    group = TensorGroup.from_tensors(tensors, base_index=0 if case.base else None, name="weight")
    masks: list[torch.Tensor] = []
    if case.method.startswith(("dare", "della")):
        pairs = zip(case.masks(), case.parameters["density"], strict=True)
        masks = [torch.from_numpy(mask).float() for mask, density in pairs if density < 1]
    with mock.patch.object(torch, "bernoulli", side_effect=masks) as bernoulli:
        (result,) = registry.get(case.method)([group], parameters=case.parameters)
    assert bernoulli.call_count == len(masks), f"{case.label}: the peer did not use every mask"
    return result.numpy(), [call.args[0].numpy() for call in bernoulli.call_args_list]


def main() -> None:
    version = importlib.metadata.version("mergekit")
    assert version == PEER, f"these goldens are of mergekit {PEER}, this is {version}"
    results = {case.label: merged(case)[0] for case in CASES}
    assert len(results) == len(CASES), "two cases have one label"
    about = {
        "mergekit version": version,
        "mergekit methods": [method.spec.name for method in registry.registered_methods()],
        "della probabilities": np.stack(merged(RANKED)[1]),
        "inputs crc32": zlib.crc32(b"".join(array.tobytes() for case in CASES for array in case.tensors()[0])),
    }
    np.savez_compressed(TARGET, **results, **about)
    print(f"{TARGET.name}: {len(results)} cases, {TARGET.stat().st_size / 1000:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main()
