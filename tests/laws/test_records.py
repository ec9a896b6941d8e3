"""A record and its function tell the same story."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from modelwright.methods import METHODS, Method

from .cases import ALL, draw

SECTIONS = ("Args:", "Returns:", "Raises:", "Differs:", "Source:")


@pytest.mark.parametrize("method", ALL)
def test_names_and_defaults_are_those_of_the_function(method: Method) -> None:
    signature = inspect.signature(method.function).parameters
    assert method.function.__name__ == method.name
    assert METHODS.find(method.name) is method
    for parameter in method.fields.values():
        argument = signature[parameter.python_name]
        assert argument.kind is inspect.Parameter.KEYWORD_ONLY
        # A recipe has to say what the community's schema requires; in Python such a number may be 1 by default.
        expected = (1.0, inspect.Parameter.empty) if parameter.required else (parameter.default,)
        assert argument.default in expected


@pytest.mark.parametrize("method", ALL)
def test_needs_are_those_of_the_signature(method: Method) -> None:
    signature = inspect.signature(method.function).parameters
    assert ("base" in signature) == (method.base != "ignored")
    assert ("key" in signature) == method.random
    if method.base == "required":
        assert signature["base"].default is inspect.Parameter.empty


@pytest.mark.parametrize("method", ALL)
def test_presets_and_defaults_are_valid(method: Method) -> None:
    for semantics in ("community", *method.presets):
        for name, value in method.defaults(semantics).items():
            assert method.fields[name].check(value) == value
    parameters = draw(method, 2, np.random.default_rng(0))
    assert method.scope(parameters) in ("row", "tensor", "layer", "model")
    assert (method.scope(parameters) in ("layer", "model")) >= bool(method.rounds(parameters))


@pytest.mark.parametrize("method", ALL)
def test_the_text_is_complete(method: Method) -> None:
    text = inspect.getdoc(method.function) or ""
    places = [text.find(section) for section in SECTIONS]
    assert places == sorted(places)
    assert min(places) > 0
    assert method.title
    assert method.summary.endswith(".")
    assert method.differs
    assert all(parameter.help.endswith(".") for parameter in method.fields.values())
