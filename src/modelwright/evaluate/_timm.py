"""Image models of timm, from the folders that timm writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, needs
from modelwright.evaluate._heads import HeadPredictor
from modelwright.evaluate._predictor import Predictor
from modelwright.evaluate._weights import Weights, load_strictly


def is_timm(weights: Weights) -> bool:
    """Whether a configuration is one of timm's: it names one architecture, and how the model was trained."""
    return isinstance(weights.config.get("architecture"), str) and "pretrained_cfg" in weights.config


def timm_head(weights: Weights) -> Predictor:
    """A classifier of timm with its own preprocessing; nothing is fetched, and no code of the folder is run.

    Raises:
        MissingExtraError: timm is not installed.
        InputError: timm has no such architecture, or tensors are missing, left over or of another shape.
    """
    timm = needs("timm", "loading this model", "timm")
    config = dict(weights.config)
    said = {name: config[name] for name in ("num_classes", "global_pool") if config.get(name) is not None}
    try:
        module = timm.create_model(
            config["architecture"], pretrained=False, **(said | dict(config.get("model_args") or {}))
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"timm {timm.__version__} cannot build '{config['architecture']}': {error}", where=weights.label
        ) from error
    load_strictly(module, weights)
    names = config.get("label_names") or dict(config["pretrained_cfg"] or {}).get("label_names") or ()
    found = _TimmPredictor(
        weights.label,
        module=module.eval(),
        device=weights.device,
        read=_Images(dict(config["pretrained_cfg"] or {})),
        labels=tuple(map(str, names)),
    )
    text = f"{found.fingerprint} {json.dumps(config, sort_keys=True, default=str)}"
    found.fingerprint = xxhash.xxh3_128_hexdigest(text.encode())
    return found


@dataclass
class _TimmPredictor(HeadPredictor):
    """Its module gives the logits themselves."""

    def outputs_of(self, inputs: Any) -> np.ndarray:
        """The logits of what the inputs are read as, float64."""
        import torch

        with torch.inference_mode():
            found = self.module(self.read(inputs, self.module).to(self.device))
        return found.to("cpu", torch.float64).numpy()


@dataclass(frozen=True)
class _Images:
    """Images of uint8 go through the transform that timm evaluates the model with; numbers with fractions are pixel values."""

    pretrained: dict[str, Any]

    def __call__(self, inputs: Any, model: Any) -> Any:
        import torch

        values = np.asarray(inputs)
        if values.dtype.kind == "f":
            return torch.from_numpy(np.ascontiguousarray(values, np.float32))
        if values.dtype != np.uint8:
            raise InputError(f"images must be uint8, or pixel values in a floating format, got {values.dtype}")
        image = needs("PIL.Image", "preparing images")
        data = needs("timm.data", "preparing images", "timm")
        transform = data.create_transform(**data.resolve_data_config({}, pretrained_cfg=self.pretrained, model=model))
        return torch.stack([transform(image.fromarray(one).convert("RGB")) for one in values])
