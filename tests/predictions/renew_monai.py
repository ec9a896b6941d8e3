"""Records what MONAI says of the shapes in test_masks.py; run it where MONAI is installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def blobs(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping random shapes; what the recorded figures are of."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    noise = np.asarray(gaussian_filter(rng.normal(size=shape), 2.0))
    other = noise + 0.5 * np.asarray(gaussian_filter(rng.normal(size=shape), 2.0))
    return noise > 0.05, other > 0.05


def main() -> None:
    import monai
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance

    cases = []
    for seed, shape in ((0, (32, 40)), (1, (48, 24)), (2, (16, 20, 18)), (3, (24, 24, 12)), (4, (64, 64))):
        masks = [torch.tensor(mask[None, None].astype(np.float32)) for mask in blobs(seed, shape)]
        spacing = [0.7, 1.5, 2.0][: len(shape)]
        cases.append(
            {
                "seed": seed,
                "shape": shape,
                "spacing": spacing,
                "dice": compute_dice(*masks).item(),
                "hd": compute_hausdorff_distance(*masks, include_background=True).item(),
                "hd95": compute_hausdorff_distance(*masks, include_background=True, percentile=95).item(),
                "hd95_spaced": compute_hausdorff_distance(
                    *masks, include_background=True, percentile=95, spacing=spacing
                ).item(),
            }
        )
    text = json.dumps({"monai": monai.__version__, "cases": cases}, indent=1)
    (Path(__file__).parent / "monai.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
