"""Models and bundles of them that answer about inputs: what `/v1/predict` asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelwright.errors import InputError, RunError
from modelwright.evaluate import Predictor, predict
from modelwright.predictions import Predictions


@dataclass
class Predicting:
    """A system that gives probabilities or numbers, asked by one request at a time.

    Attributes:
        predictor: What answers, such as a bundle.
        task: What its inputs are like: columns, preprocessing, classes; None with `classes`.
        classes: Names of its classes, where no task says them.
        batch: Inputs at a time.

    Raises:
        InputError: There are both a task and classes, or neither.
    """

    predictor: Predictor
    task: Any = None
    classes: Sequence[str] = ()
    batch: int = 64
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.task is None) == (not self.classes):
            raise InputError(
                f"'{self.predictor.label}' is served with a task or with the names of its classes, and with one of them",
                "Give --task FILE or --classes A,B.",
            )

    async def answer(self, inputs: Any) -> dict[str, Any]:
        """What it says of inputs, as plain values.

        Args:
            inputs: Texts, or numbers as lists of lists of one shape.

        Raises:
            InputError: They are neither, or do not fit the system.
            RunError: It gave answers that are none.
        """
        data = _data(inputs)
        async with self._turn:
            return _said(await asyncio.to_thread(self._answered, data))

    def _answered(self, data: Any) -> Predictions:
        asked = {self.predictor.label: self.predictor}
        try:
            return predict(asked, data, task=self.task, classes=self.classes, batch=self.batch)
        except (InputError, RunError, MemoryError):
            raise
        except Exception as error:  # whatever a foreign model raises, such as on inputs of another width
            what = f"'{self.predictor.label}' cannot answer about these inputs: {type(error).__name__}: {error}"
            raise InputError(what) from error


def _data(inputs: Any) -> Any:
    if not isinstance(inputs, list) or not inputs:
        raise InputError("inputs must be a list of at least one input")
    if all(isinstance(one, str) for one in inputs):
        return inputs
    try:
        found = np.asarray(inputs, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("inputs must be texts, or lists of numbers of one shape") from None
    if not np.isfinite(found).all():
        raise InputError("inputs must be finite numbers")
    return found


def _said(bank: Predictions) -> dict[str, Any]:
    values = np.asarray(bank.values[0], np.float64)
    if bank.kind == "regression":
        return {"kind": bank.kind, "predictions": [{"answer": float(np.ravel(row)[0])} for row in values]}
    names = list(bank.classes)
    rows = [{"answer": names[int(row.argmax())], "probabilities": row.tolist()} for row in values]
    return {"kind": bank.kind, "classes": names, "predictions": rows}


def asked(body: Any, known: Mapping[str, Predicting]) -> tuple[str, Any]:
    """Which system a body asks, and about what.

    Raises:
        InputError: It is no such request.
    """
    if not isinstance(body, Mapping) or "inputs" not in body:
        raise InputError("a request is a JSON object with inputs, and with model where several are served")
    unknown = sorted(set(body) - {"model", "inputs"})
    if unknown:
        raise InputError(f"unknown key '{unknown[0]}'", "Valid: inputs, model.")
    model = body.get("model") or (next(iter(known)) if len(known) == 1 else "")
    if not isinstance(model, str):
        raise InputError("model must be a text")
    return model, body["inputs"]
