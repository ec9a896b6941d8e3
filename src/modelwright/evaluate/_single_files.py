"""Models that are one file each: ONNX graphs, and estimators of scikit-learn that skops has written. Neither is unpickled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, listing
from modelwright.evaluate._predictor import EstimatorPredictor, Outputs, Predictor, Size, needs, softmax

#: What the last operator of a graph must be for its numbers to be probabilities; all others give logits, or values.
_PROBABILITIES = ("Softmax", "Sigmoid", "Normalizer")
_NUMBERS = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32, "tensor(uint8)": np.uint8,
}  # fmt: skip


#: Types of scikit-learn that skops does not vouch for, because they are compiled or rare, and that hold numbers alone. What compiled
#: trees hold is looked at (`_check_trees`), for they walk their nodes without looking.
TRUSTED = frozenset(
    {
        "sklearn.tree._tree.Tree", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    }
)  # fmt: skip


@dataclass
class OnnxPredictor(Predictor):
    """An ONNX graph from one array of inputs to numbers (n, C) or (n,).

    Attributes:
        session: Of onnxruntime.
        source: The name of the graph's input, and its format.
        result: The name of the output that is taken.
        outputs: What that gives for classes.
        path: The file.
    """

    session: Any = field(kw_only=True)
    source: tuple[str, Any] = field(kw_only=True)
    result: str = field(kw_only=True)
    outputs: Outputs = field(default="logits", kw_only=True)
    path: Path = field(kw_only=True)

    def _run(self, inputs: Any) -> np.ndarray:
        name, dtype = self.source
        (found,) = self.session.run([self.result], {name: np.asarray(inputs).astype(dtype, copy=False)})
        return np.asarray(found, np.float64)

    def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
        """What the graph gives; logits go through a softmax in float64."""
        found = self._run(inputs)
        return softmax(found) if self.outputs == "logits" else found

    def values(self, inputs: Any) -> np.ndarray:
        """What the graph gives."""
        return self._run(inputs)


def onnx_file(path: Path, label: str, device: str = "cpu") -> OnnxPredictor:
    """What answers by an ONNX file.

    Whether it gives probabilities or logits is read from its graph: an output of a softmax, or of a classifier of
    scikit-learn, is probabilities.

    Args:
        path: The file; its weights are in it.
        label: How tables call it.
        device: `cpu`, or `cuda`.

    Raises:
        InputError: It is no ONNX file, keeps weights elsewhere, takes several inputs or texts, or has no array of numbers to give.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    onnx, runtime = needs("onnx", "an ONNX model", "ensemble"), needs("onnxruntime", "an ONNX model", "ensemble")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # whatever protobuf raises
        raise InputError(f"'{path}' is no ONNX file", f"It cannot be read: {type(error).__name__}.") from None
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in model.graph.initializer):
        raise InputError(f"'{path}' keeps weights in other files", "Export it again with all of them in one file.")
    session = runtime.InferenceSession(str(path), providers=_providers(runtime, device))
    inputs, results = (
        session.get_inputs(),
        [
            one
            for one in session.get_outputs()
            if (one.type in _NUMBERS and "float" in one.type) or one.type == "tensor(double)"
        ],
    )
    if len(inputs) != 1 or inputs[0].type not in _NUMBERS:
        said = listing([f"{one.name} ({one.type})" for one in inputs], 4)
        raise InputError(f"'{path}' must take one array of numbers, and takes {said}")
    if not results:
        raise InputError(f"'{path}' gives no array of numbers", "Of scikit-learn's export it without zipmap.")
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    known = [one for one in results if _is_probability(makers.get(one.name, ""))]
    result = (known or results)[0]
    size = sum(int(np.prod(one.dims)) for one in model.graph.initializer)
    raw = path.read_bytes()
    return OnnxPredictor(
        label, session=session, source=(inputs[0].name, _NUMBERS[inputs[0].type]), result=result.name,
        outputs="probabilities" if known else "logits", fingerprint=xxhash.xxh3_128_hexdigest(raw),
        size=Size(size, len(raw)), path=path,
    )  # fmt: skip


def _is_probability(maker: str) -> bool:
    return maker in _PROBABILITIES or maker.endswith("Classifier")


def _providers(runtime: Any, device: str) -> list[str]:
    wanted = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    if wanted not in runtime.get_available_providers():
        raise InputError(f"onnxruntime has no {wanted} here", "Leave --device out, or install onnxruntime-gpu.")
    return [wanted]


def skops_file(path: Path, label: str, device: str = "cpu") -> EstimatorPredictor:
    """What answers by a fitted estimator that `skops.io.dump` has written.

    Args:
        path: The file.
        label: How tables call it.
        device: Of no use to it.

    Raises:
        InputError: It is damaged, or holds types beside those of scikit-learn, numpy and scipy that skops trusts.
        MissingExtraError: skops is not installed.
    """
    sio = needs("skops.io", "an estimator kept by skops", "ensemble")
    try:
        found = sio.get_untrusted_types(file=path)
    except Exception as error:  # whatever a damaged file makes it raise
        raise InputError(f"'{path}' cannot be read by skops: {type(error).__name__}: {error}") from None
    if odd := sorted(set(found) - TRUSTED):
        raise InputError(
            f"'{path}' holds types that are not trusted: {listing(odd, 5)}",
            "They could run code when they are loaded: keep estimators of scikit-learn alone.",
        )
    estimator = sio.load(path, trusted=found)
    if found:
        _check_trees(estimator, str(path))
    raw = path.read_bytes()
    return EstimatorPredictor(
        label, estimator=estimator, fingerprint=xxhash.xxh3_128_hexdigest(raw), size=Size(None, len(raw)), path=path
    )


def _check_trees(value: Any, path: str, seen: set[int] | None = None) -> None:
    """Refuse trees whose nodes lead out of them, or back: predicting would read any memory, or never end.

    Raises:
        InputError: There is one.
    """
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, str | bytes | int | float):
        return
    seen.add(id(value))
    if type(value).__name__ == "Tree" and hasattr(value, "children_left"):
        nodes, sides = np.arange(value.node_count), (value.children_left, value.children_right)
        features = value.feature[sides[0] >= 0]
        good = all(bool(np.all((side < 0) | ((side > nodes) & (side < value.node_count)))) for side in sides)
        if not (good and bool(np.all((features >= 0) & (features < value.n_features)))):
            raise InputError(f"'{path}' holds a tree whose nodes lead out of it", "The file is damaged.")
    elif type(value).__name__ == "TreePredictor" and hasattr(value, "nodes"):
        table, nodes = value.nodes, np.arange(len(value.nodes))
        inner = table["is_leaf"] == 0
        good = all(
            bool(np.all((table[side] > nodes)[inner] & (table[side] < len(nodes))[inner])) for side in ("left", "right")
        )
        if not good:
            raise InputError(f"'{path}' holds a tree whose nodes lead out of it", "The file is damaged.")
    elif isinstance(value, np.ndarray):
        for one in value.ravel().tolist() if value.dtype == object else ():
            _check_trees(one, path, seen)
    elif isinstance(value, list | tuple | set):
        for one in value:
            _check_trees(one, path, seen)
    else:
        for one in (value if isinstance(value, dict) else getattr(value, "__dict__", {})).values():
            _check_trees(one, path, seen)


def dump_estimator(estimator: Any, path: Path, label: str) -> None:
    """Write a fitted estimator with skops.

    Raises:
        InputError: It holds what could not be loaded again.
    """
    sio = needs("skops.io", "keeping an estimator", "ensemble")
    sio.dump(estimator, path)
    odd = sorted(set(sio.get_untrusted_types(file=path)) - TRUSTED)
    if odd:
        raise InputError(
            f"'{label}' holds types that a bundle cannot hold: {listing(odd, 5)}",
            "Use estimators and functions of scikit-learn, numpy and scipy alone.",
        )


#: What makes a Predictor of a file, by how its name ends.
SINGLE_FILES: dict[str, Callable[[Path, str, str], Predictor]] = {".onnx": onnx_file, ".skops": skops_file}
