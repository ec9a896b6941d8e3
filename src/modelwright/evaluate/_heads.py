"""Models of transformers with a head for classes or numbers: images and texts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, MissingExtraError, Problem, listing
from modelwright.evaluate._predictor import ModulePredictor, Predictor
from modelwright.evaluate._weights import Weights, processor_files

#: What transformers calls labels that nobody named.
_UNNAMED = "LABEL_"


@dataclass
class HeadPredictor(ModulePredictor):
    """A model of transformers with a classification or regression head.

    Where the configuration names its labels, they must be the task's classes, in any order: the columns are put in the
    task's. Unnamed ones (`LABEL_0`) count as the task's, in order.

    Attributes:
        labels: The names of its outputs; empty where nobody named them.
        columns: Which output stands for each of a task's classes; None is their own order.
        read: Makes the model's arguments of a batch of inputs.
    """

    labels: tuple[str, ...] = field(default=(), kw_only=True)
    columns: tuple[int, ...] | None = field(default=None, kw_only=True)
    read: Any = field(kw_only=True)

    def for_task(self, task: Any) -> Predictor:
        """The same with its outputs in the order of the task's classes.

        Raises:
            InputError: Its labels are others.
        """
        if not task.classes or not self.labels:
            return self
        mine = {name.casefold(): i for i, name in enumerate(self.labels)}
        wanted = [name.casefold() for name in task.classes]
        if set(mine) != set(wanted) or len(mine) != len(self.labels):
            raise InputError(
                f"'{self.label}' has the labels {listing(self.labels, 6)}, and the task the classes "
                f"{listing(task.classes, 6)}",
                "Say classes: in the task file in the model's words, or rename id2label in its config.json.",
                f"task {task.name}",
            )
        return replace(self, columns=tuple(mine[name] for name in wanted))

    def outputs_of(self, inputs: Any) -> np.ndarray:
        """The logits of what the inputs are read as, float64."""
        import torch

        arguments = {name: value.to(self.device) for name, value in self.read(inputs, self.module).items()}
        with torch.inference_mode():
            found = self.module(**arguments).logits
        return found.to("cpu", torch.float64).numpy()

    def scores(self, inputs: Any, classes: int) -> np.ndarray:
        """Its logits, in the order of the task's classes."""
        found = self.outputs_of(inputs)
        return found if self.columns is None else found[:, list(self.columns)]


def loaded(weights: Weights) -> tuple[Any, Any]:
    """The model in evaluation mode, and its configuration; all its weights are from the checkpoint.

    Raises:
        MissingExtraError: transformers is not installed.
        InputError: It has no such architecture, or tensors are missing, left over or of another shape.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("loading this model", "transformers", "torch") from error
    name = str(weights.config["architectures"][0])
    kind = getattr(transformers, name, None)
    if kind is None:
        mend = "Give --network MODULE:FUNCTION; code from a model's folder is not run."
        raise InputError(f"transformers {transformers.__version__} has no {name}", mend, weights.label)
    config = kind.config_class.from_dict(dict(weights.config))
    state = weights.checkpoint.state_dict()
    formats = {value.dtype for value in state.values() if value.is_floating_point()}
    with quiet(transformers):
        model, info = kind.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True,
            dtype=next(iter(formats)) if len(formats) == 1 else None,
        )  # fmt: skip
    _check_loaded(weights.label, name, info)
    return model.eval(), config


def _check_loaded(label: str, name: str, info: Mapping[str, Any]) -> None:
    problems: list[Problem] = []
    if info["missing_keys"]:
        missing = listing(sorted(info["missing_keys"]), 5)
        mend = "transformers would fill them with random numbers."
        problems.append(Problem(f"tensors of {name} are missing: {missing}", mend, label))
    if info["unexpected_keys"]:
        problems.append(Problem(f"{name} has no place for {listing(sorted(info['unexpected_keys']), 5)}", where=label))
    for key, found, wanted in sorted(info["mismatched_keys"]):
        problems.append(Problem(f"'{key}' has shape {tuple(found)}, and {name}'s {tuple(wanted)}", where=label))
    if problems:
        raise InputError(problems)


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Neither bars nor reports of transformers: what they say is checked here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _labels(config: Any) -> tuple[str, ...]:
    names = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    return () if all(name == f"{_UNNAMED}{i}" for i, name in enumerate(names)) else names


def _predictor(weights: Weights, read: Any) -> Predictor:
    model, config = loaded(weights)
    found = HeadPredictor(
        weights.label,
        module=model,
        device=weights.device,
        read=read,
        labels=_labels(config) if config.num_labels > 1 else (),
    )
    said = json.dumps(weights.config, sort_keys=True, default=str)
    text = f"{found.fingerprint} {said} {processor_files(weights.folder)}"
    found.fingerprint = xxhash.xxh3_128_hexdigest(text.encode())
    return found


# --- images ----------------------------------------------------------------------------------------------------------


def image_head(weights: Weights) -> Predictor:
    """A `..ForImageClassification` with its image processor, if its folder has one."""
    return _predictor(weights, _Images(_image_processor(weights)))


def _image_processor(weights: Weights) -> Any:
    if weights.folder is None or not (weights.folder / "preprocessor_config.json").is_file():
        return None
    import transformers

    return from_folder(transformers, transformers.AutoImageProcessor, weights.folder)


def from_folder(transformers: Any, kind: Any, folder: Path) -> Any:
    """A tokenizer or processor of a folder; nothing is fetched, and no code of the folder is run.

    Raises:
        InputError: It cannot be loaded.
    """
    try:
        with quiet(transformers):
            return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"cannot load the {kind.__name__}: {error}", where=str(folder)) from error


@dataclass(frozen=True)
class _Images:
    """Images of uint8 go through the model's processor; numbers with fractions are pixel values already."""

    processor: Any

    def __call__(self, inputs: Any, model: Any) -> dict[str, Any]:
        import torch

        values = np.asarray(inputs)
        if values.dtype.kind == "f":
            channels = getattr(model.config, "num_channels", None) or 3
            if values.ndim != 4 or values.shape[1] != channels:
                raise InputError(
                    f"pixel values must have shape (n, {channels}, height, width), got {values.shape}",
                    "Say channels: first in the task's preprocessing; colour: rgb makes three of one.",
                )
            return {"pixel_values": torch.from_numpy(np.ascontiguousarray(values)).to(model.dtype)}
        if values.dtype != np.uint8:
            raise InputError(f"images must be uint8, or pixel values in a floating format, got {values.dtype}")
        if self.processor is None:
            raise InputError(
                "the model's folder has no preprocessor_config.json, so it is not known how its images are scaled",
                "Say preprocessing: in the task file: channels, scale, normalise.",
            )
        images = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in values]
        found = self.processor(images=images, return_tensors="pt", input_data_format="channels_last")
        return {"pixel_values": found["pixel_values"].to(model.dtype)}


# --- texts -----------------------------------------------------------------------------------------------------------


def text_head(weights: Weights) -> Predictor:
    """A `..ForSequenceClassification` with its tokenizer."""
    if weights.folder is None or not any(weights.folder.glob("tokenizer*")):
        where = str(weights.folder or weights.label)
        raise InputError("there is no tokenizer beside the model", "It reads texts: copy tokenizer.json there.", where)
    import transformers

    tokenizer = from_folder(transformers, transformers.AutoTokenizer, weights.folder)
    if tokenizer.pad_token_id is None:
        raise InputError("the tokenizer has no padding token, so texts cannot be batched", where=str(weights.folder))
    return _predictor(weights, _Texts(tokenizer))


@dataclass(frozen=True)
class _Texts:
    """Texts, or pairs of them, tokenised together; longer ones are cut at the model's length, as the tokenizer cuts."""

    tokenizer: Any

    def __call__(self, inputs: Any, model: Any) -> dict[str, Any]:
        inputs = list(inputs)
        pairs = isinstance(inputs[0], tuple | list)
        if not all(isinstance(part, str) for one in inputs for part in (one if pairs else [one])):
            raise InputError(f"the model reads texts, and the task's inputs are {type(inputs[0]).__name__}")
        texts = [list(part) for part in zip(*inputs, strict=True)] if pairs else [inputs]
        lengths = (self.tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
        most = min(int(n) for n in lengths if n)
        found = self.tokenizer(*texts, padding=True, truncation=True, max_length=most, return_tensors="pt")
        known = inspect.signature(model.forward).parameters
        return {name: value for name, value in found.items() if name in known}
