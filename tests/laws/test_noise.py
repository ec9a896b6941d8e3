"""Noise depends on its key alone: seed, tensor name, position of the model; never on the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelwright.methods import Method
from modelwright.tensors import NoiseKey

from .cases import RANDOM, call, draw, tensors

SHAPE = (16, 16)


def merged(method: Method, key: NoiseKey, order: tuple[int, ...] = (0, 1)) -> Any:
    *models, base = tensors(3, SHAPE)
    parameters = draw(method, 2, np.random.default_rng(1))
    for name, parameter in method.fields.items():  # the models differ in nothing but their place
        if parameter.per_model:
            parameters[name] = parameters[name][0]
    return call(method, [models[i] for i in order], base, parameters, key)


@pytest.mark.parametrize("method", RANDOM)
def test_equal_keys_give_equal_bits(method: Method) -> None:
    expected = merged(method, NoiseKey(3, "a.weight"))
    np.testing.assert_array_equal(merged(method, NoiseKey(3, "a.weight")), expected)


@pytest.mark.parametrize("method", RANDOM)
def test_seed_tensor_and_position_change_the_noise(method: Method) -> None:
    expected = merged(method, NoiseKey(3, "a.weight"))
    for other in (
        merged(method, NoiseKey(4, "a.weight")),
        merged(method, NoiseKey(3, "b.weight")),
        merged(method, NoiseKey(3, "a.weight"), order=(1, 0)),
    ):
        assert np.mean(other != expected) > 0.1


@pytest.mark.parametrize("method", RANDOM)
def test_two_copies_of_a_model_draw_different_masks(method: Method) -> None:
    model, base = tensors(2, SHAPE)
    parameters = draw(method, 2, np.random.default_rng(1))
    one = call(method, [model, model], base, parameters | {"density": [0.5, 1.0]}, NoiseKey())
    two = call(method, [model, model], base, parameters | {"density": [1.0, 0.5]}, NoiseKey())
    assert np.mean(one != two) > 0.1


PROGRAM = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from laws.cases import RANDOM
from laws.test_noise import merged
from modelwright.tensors import NoiseKey
for entry in RANDOM:
    bits = merged(entry.values[0], NoiseKey(3, "a.weight")).tobytes()
    print(entry.id, hashlib.sha256(bits).hexdigest())
"""


@pytest.mark.skipif(not RANDOM, reason="no method draws noise")
def test_the_hash_seed_of_the_process_does_not_matter() -> None:
    tests = str(Path(__file__).parents[1])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, tests],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate(timeout=60)[0] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert len(first.splitlines()) == len(RANDOM)
    assert first == second
