"""Who can be asked for predictions: modules, estimators, ONNX files, any function."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, needs
from modelwright.predictions._code import function_hash
from modelwright.predictions._predictions import MemberCost
from modelwright.predictions._scales import Kind, Scale, check_scale


@dataclass(frozen=True)
class Source:
    """One member that can be asked.

    Attributes:
        name: How tables call it.
        ask: A batch of inputs -> (n, C), (n,) or (n, ...), as the kind is.
        scale: What the numbers are.
        kind: What is predicted.
        fingerprint: A hash of what its answers depend on; empty where that cannot be told.
        cost: What is known of its cost.
        lineage: What it comes from, as plain values.
        unseen: What its answers may depend on beside what the fingerprint is of.
    """

    name: str
    ask: Callable[[Any], Any]
    scale: Scale
    kind: Kind = "classes"
    fingerprint: str = ""
    cost: MemberCost = field(default_factory=MemberCost)
    lineage: dict[str, Any] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_scale(self.kind, self.scale)

    def named(self, name: str) -> Source:
        """The same under another name."""
        return replace(self, name=name)


def of_function(
    function: Callable[[Any], Any], *, scale: Scale, kind: Kind = "classes", name: str = "", fingerprint: str = ""
) -> Source:
    """Any function of a batch of inputs.

    Args:
        function: What answers: arrays (n, C), (n,) or (n, ...), as the kind is.
        scale: What the numbers are.
        kind: What is predicted.
        name: Default the function's.
        fingerprint: A hash of what its answers depend on; default one of its source and the plain values that it refers to.
    """
    code, unseen = (fingerprint, ()) if fingerprint else function_hash(function)
    label = name or getattr(function, "__name__", type(function).__name__)
    return Source(label, function, scale, kind, f"{code}-{scale}", unseen=unseen)


def of_module(
    module: Any, *, scale: Scale = "logits", kind: Kind = "classes", name: str = "", device: str = "cpu"
) -> Source:
    """A torch module in evaluation mode; of what transformers' models return the logits are taken.

    Args:
        module: From a tensor of inputs to (n, C), (n,), (n, 1) or (n, ...). It is moved to the device.
        scale: What it gives.
        kind: What is predicted.
        name: Default its class's.
        device: Where it runs.

    Raises:
        InputError: A part of it is in train mode.
    """
    torch = needs("torch", "asking a module", "torch")
    label = name or type(module).__name__
    evaluating(module, label)
    module.to(device)

    def ask(inputs: Any) -> np.ndarray:
        with torch.inference_mode():
            found = module(torch.as_tensor(np.asarray(inputs)).to(device))
        found = getattr(found, "logits", found)
        wide = found.to("cpu") if found.dtype in (torch.float32, torch.float64) else found.to("cpu", torch.float32)
        return wide.numpy()

    weights = list(module.parameters())
    cost = MemberCost(
        parameters=sum(p.numel() for p in weights), nbytes=sum(p.numel() * p.element_size() for p in weights)
    )
    code = f"{state_hash(module.state_dict())}-{type(module).__qualname__}-{scale}"
    return Source(label, ask, scale, kind, code, cost)


def of_estimator(estimator: Any, *, classes: int | None = None, kind: Kind | None = None, name: str = "") -> Source:
    """A fitted scikit-learn estimator: `predict_proba` of a classifier, `predict` of a regressor.

    Inputs of more than two axes are flattened to one row a sample.

    Args:
        estimator: Its classes must be indices.
        classes: How many classes there are; default those that it has seen. Those it never saw get a probability of 0.
        kind: `classes`, `binary` (the second of two classes) or `regression`; default by what the estimator is.
        name: Default its class's.

    Raises:
        InputError: It is not fitted, gives no probabilities, or its classes are no indices.
    """
    label = name or type(estimator).__name__
    check = needs("sklearn.utils.validation", "asking an estimator").check_is_fitted
    try:
        check(estimator)
    except needs("sklearn.exceptions", "asking an estimator").NotFittedError as error:
        raise InputError(f"'{label}' is not fitted yet", "Call its fit first.") from error
    kind = kind or ("classes" if hasattr(estimator, "classes_") else "regression")
    code = xxhash.xxh3_128_hexdigest(pickle.dumps(estimator))  # hashed only: nothing is ever unpickled
    if kind == "regression":
        return Source(label, lambda inputs: estimator.predict(as_rows(inputs)), "values", kind, code)
    if not hasattr(estimator, "predict_proba"):
        raise InputError(f"'{label}' cannot give probabilities: it has no predict_proba")
    known = np.asarray(estimator.classes_)
    count = classes or (2 if kind == "binary" else len(known))
    if known.dtype.kind not in "iub" or int(known.min()) < 0 or int(known.max()) >= count:
        raise InputError(
            f"the classes of '{label}' must be indices in [0, {count - 1}], got {known.tolist()[:8]}",
            "Say classes=, the number of classes, if it has not seen all.",
        )

    def ask(inputs: Any) -> np.ndarray:
        found = np.zeros((len(inputs), count))
        found[:, known.astype(np.intp)] = estimator.predict_proba(as_rows(inputs))
        return found[:, 1] if kind == "binary" else found

    return Source(label, ask, "probabilities", kind, f"{code}-{count}")


def of_onnx(
    path: str | Path,
    *,
    scale: Scale,
    kind: Kind = "classes",
    name: str = "",
    output: str | None = None,
    threads: int = 0,
) -> Source:
    """An ONNX file, run by onnxruntime on the CPU.

    Args:
        path: The file. It must have one input.
        scale: What its output is: files do not say.
        kind: What is predicted.
        name: Default the file's name without its suffix.
        output: Which output; may be left out where there is one.
        threads: Of onnxruntime; 0 is as many as there are cores.

    Raises:
        InputError: There is no such file, onnxruntime cannot load it, or inputs or outputs are others.
    """
    runtime = needs("onnxruntime", "asking an ONNX file", "onnx")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file '{path}'")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, which have no common name
        raise InputError(f"onnxruntime cannot load this file: {str(error).splitlines()[0]}", where=str(path)) from error
    entry = _onnx_input(session, str(path))
    wanted = _onnx_output(session, output, str(path))
    form = _ONNX_FORMATS[entry.type]

    def ask(inputs: Any) -> np.ndarray:
        values = np.asarray(inputs)
        return session.run([wanted], {entry.name: values if form is None else np.ascontiguousarray(values, form)})[0]

    code = f"{xxhash.xxh3_128_hexdigest(path.read_bytes())}-{wanted}-{scale}"
    return Source(name or path.stem, ask, scale, kind, code, MemberCost(nbytes=path.stat().st_size))


#: What onnxruntime calls formats of tensors -> numpy's; texts stay as they are.
_ONNX_FORMATS: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_, "tensor(string)": None,
}  # fmt: skip


def _onnx_input(session: Any, where: str) -> Any:
    entries = session.get_inputs()
    if len(entries) != 1:
        names = ", ".join(entry.name for entry in entries)
        raise InputError(
            f"an ONNX file must have one input, got {len(entries)}: {names}", "Wrap it in a function.", where
        )
    if entries[0].type not in _ONNX_FORMATS:
        raise InputError(f"inputs of the type {entries[0].type} are not supported", "Wrap it in a function.", where)
    return entries[0]


def _onnx_output(session: Any, output: str | None, where: str) -> str:
    found = {entry.name: entry.type for entry in session.get_outputs()}
    if output is None and len(found) > 1:
        raise InputError(f"this ONNX file has {len(found)} outputs", f"Say output=, one of {', '.join(found)}.", where)
    name = output or next(iter(found))
    if name not in found:
        raise InputError(f"there is no output '{name}'", f"There are {', '.join(found)}.", where)
    if found[name] not in ("tensor(float)", "tensor(double)", "tensor(float16)"):
        raise InputError(
            f"the output '{name}' must be a tensor of floating numbers, got {found[name]}",
            "Convert classifiers of scikit-learn with zipmap=False, and name the output of probabilities.",
            where,
        )
    return name


def source(
    member: Any, *, scale: Scale | None = None, kind: Kind | None = None, name: str = "", device: str = "cpu"
) -> Source:
    """Anything that can be asked, as a `Source`.

    Args:
        member: A `Source`, an `nn.Module`, a fitted estimator, the path of an `.onnx` file, or a function.
        scale: What its numbers are. Modules give logits unless it is said, estimators say themselves; files and functions must
            be told.
        kind: What is predicted; `classes` unless it is said, for estimators what they are.
        name: Default its own.
        device: Where modules run.

    Raises:
        InputError: It is none of these, or its scale is not said.
    """
    if isinstance(member, Source):
        return member.named(name) if name else member
    if hasattr(member, "state_dict") and hasattr(member, "named_modules"):
        usual: Scale = "values" if kind in ("regression", "dense") else "logits"
        return of_module(member, scale=scale or usual, kind=kind or "classes", name=name, device=device)
    if hasattr(member, "predict") and hasattr(member, "get_params"):
        return of_estimator(member, kind=kind, name=name)
    what = "a file" if isinstance(member, str | Path) else f"'{name or getattr(member, '__name__', 'a function')}'"
    if scale is None:
        raise InputError(
            f"it must be said what {what} gives",
            "Say scale='logits', 'probabilities', 'log-probabilities' or 'values'.",
        )
    if isinstance(member, str | Path) and str(member).endswith(".onnx"):
        return of_onnx(member, scale=scale, kind=kind or "classes", name=name)
    if callable(member):
        return of_function(member, scale=scale, kind=kind or "classes", name=name)
    raise InputError(
        f"{what} cannot be asked for predictions: it is of the type {type(member).__name__}",
        "Give an nn.Module in evaluation mode, a fitted estimator, an .onnx file, or a function; folders of transformers and "
        "timm, and recipes, are asked by modelwright.evaluate.predictions.",
    )


def as_rows(inputs: Sequence[Any]) -> np.ndarray:
    """One row a sample, as estimators want it."""
    array = np.asarray(inputs)
    return array.reshape(len(array), -1) if array.dtype != object else array


def evaluating(module: Any, label: str) -> None:
    """Refuse a module of which any part is in train mode.

    Raises:
        InputError: One is.
    """
    training = [name for name, part in module.named_modules() if part.training]
    if training:
        inside = f" (its part '{training[0]}')" if training[0] else ""
        raise InputError(
            f"'{label}' is in train mode{inside}: dropout and batch statistics would change its answers",
            "Call .eval() on it first.",
        )


def state_hash(state: Any) -> str:
    """A hash of a torch state dict's names, formats and values."""
    import torch

    digest = xxhash.xxh3_128()
    for name, tensor in state.items():
        value = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
