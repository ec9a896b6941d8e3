"""Where a tensor sits in a stack of layers, read from its name."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Two numbers make one depth: `stages.1.blocks.2`, `layers.1.blocks.2`, `encoder.stages.0.layers.1`, `layer3.0`.
_NESTED = (
    re.compile(r"^((?:.*[./])?stages?)\.(\d+)\.((?:blocks?|layers?)\.)(\d+)\.(.+)$"),
    re.compile(r"^((?:.*[./])?layers)\.(\d+)\.(blocks\.)(\d+)\.(.+)$"),
    re.compile(r"^((?:.*[./])?layer)(\d+)(\.)(\d+)\.(.+)$"),
)
#: Words that a number after them makes a layer of; the first such number in a name counts (so experts do not).
_CONTAINERS = (
    "layers|layer|h|blocks|block|stages|stage|resblocks|encoder_layers|decoder_layers|conv_layers|transformer_blocks|"
    "down_blocks|up_blocks|single_transformer_blocks|layer_groups|hidden_layers|groups|layer_module"
)
_NUMBERED = re.compile(rf"^((?:.*?[./])?(?:{_CONTAINERS}))\.(\d+)\.(.+)$")
#: For models with none of these words, such as a bare nn.Sequential: the first number.
_ANY_NUMBER = re.compile(r"^(?:(.*?)\.)?(\d+)\.(.+)$")


@dataclass(frozen=True)
class Place:
    """A layer of a stack.

    Attributes:
        stack: The name up to the layer number: `model.layers`, `vision_tower.encoder.layers`, `encoder.block`.
        number: Its depth in the stack, counted from 0 over the numbers that occur.
        count: How many layers the stack has.
        nested: Whether two numbers make the depth, so that layers of it cannot be moved by renaming.
    """

    stack: str
    number: int
    count: int
    nested: bool = False

    @property
    def t(self) -> float:
        """Position for gradients: number / (count - 1), and 1 where there is one layer."""
        return self.number / (self.count - 1) if self.count > 1 else 1.0


class Layout:
    """The stacks of layers of one model.

    Args:
        names: All tensor names of the model.
    """

    def __init__(self, names: Iterable[str]):
        found = {name: _split(name, _NUMBERED) for name in names}
        if not any(found.values()):
            found = {name: _split(name, _ANY_NUMBER) for name in found}
        depths: dict[str, set[tuple[int, ...]]] = {}
        for split in found.values():
            if split:
                depths.setdefault(split[0], set()).add(split[1])
        order = {stack: {depth: i for i, depth in enumerate(sorted(numbers))} for stack, numbers in depths.items()}
        self._places: dict[str, Place] = {}
        for name, split in found.items():
            if split:
                stack, depth = split
                self._places[name] = Place(stack, order[stack][depth], len(order[stack]), nested=len(depth) > 1)
        self.stacks: dict[str, int] = {stack: len(numbers) for stack, numbers in order.items()}

    def place(self, name: str) -> Place | None:
        """The layer a tensor belongs to; None for embeddings, heads and final norms."""
        return self._places.get(name)


def _split(name: str, single: re.Pattern[str]) -> tuple[str, tuple[int, ...]] | None:
    for pattern in _NESTED:
        if match := pattern.match(name):
            return match[1], (int(match[2]), int(match[4]))
    if match := single.match(name):
        return match[1] or "", (int(match[2]),)
    return None


def renumbered(name: str, place: Place, number: int) -> str:
    """The name of the same tensor in another layer of its stack."""
    start = f"{place.stack}." if place.stack else ""
    return f"{start}{number}.{name.removeprefix(start).split('.', 1)[1]}"


_COUNT_KEYS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "encoder_layers", "decoder_layers",
    "num_decoder_layers", "num_encoder_layers", "n_encoder_layers", "n_decoder_layers",
)  # fmt: skip
_TEXT_LEVELS = ("text_config", "llm_config", "language_config", "decoder", "thinker_config")
_VISION_LEVELS = ("vision_config", "vision_tower_config", "encoder")


def resize_config(
    config: Mapping[str, Any], stack: str, sources: Sequence[tuple[Mapping[str, Any], int, int]], old_count: int
) -> tuple[dict[str, Any], bool]:
    """The configuration for a stack rebuilt from slices: the layer count, and every list with one entry a layer.

    Args:
        config: The donor's configuration.
        stack: The stack that was rebuilt.
        sources: For each slice of the output the source's configuration and its range of layers [a, b).
        old_count: The donor's number of layers.

    Returns:
        The new configuration, and whether a key that holds the count was found.
    """
    result = copy.deepcopy(dict(config))
    new_count = sum(stop - start for _, start, stop in sources)
    decoding = "decoder" in stack
    for path in _levels(stack):
        level = _descend(result, path)
        if not isinstance(level, dict):
            continue
        keys = [key for key in _COUNT_KEYS if level.get(key) == old_count]
        if "encoder" in stack or decoding:
            side = "decoder" if decoding else "encoder"
            other = "encoder" if decoding else "decoder"
            keys = [key for key in keys if side in key] or [key for key in keys if other not in key]
        if not keys:
            continue
        for key in keys:
            level[key] = new_count
        for key, value in level.items():
            if isinstance(value, list) and len(value) == old_count and re.search("layer|block|type|pattern", key):
                level[key] = _joined(value, key, path, sources)
        return result, True
    return result, False


def _levels(stack: str) -> list[tuple[str, ...]]:
    if re.search("vision|visual|image|vit", stack):
        return [(level,) for level in _VISION_LEVELS] + [()]
    return [(), *((level,) for level in _TEXT_LEVELS)]


def _descend(config: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _joined(
    own: list[Any], key: str, path: tuple[str, ...], sources: Sequence[tuple[Mapping[str, Any], int, int]]
) -> list[Any]:
    entries: list[Any] = []
    for config, start, stop in sources:
        level = _descend(dict(config), path)
        values = level.get(key, own) if isinstance(level, dict) else own
        entries.extend(values[start:stop])
    return entries
