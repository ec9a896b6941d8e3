"""Where a tensor sits in a stack of layers, read from its name."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelwright.architectures._json import is_list, level

#: Numbers have nine digits at most: longer ones number no layer, and of 4300 digits Python makes no int.
#: Two numbers make one depth: `stages.1.blocks.2`, `layers.1.blocks.2`, `encoder.stages.0.layers.1`, `layer3.0`.
_NESTED = (
    re.compile(r"^((?:.*[./])?stages?)\.(\d{1,9})\.((?:blocks?|layers?)\.)(\d{1,9})\.(.+)$"),
    re.compile(r"^((?:.*[./])?layers)\.(\d{1,9})\.(blocks\.)(\d{1,9})\.(.+)$"),
    re.compile(r"^((?:.*[./])?layer)(\d{1,9})(\.)(\d{1,9})\.(.+)$"),
)
#: Words that a number after them makes a layer of; the first such number in a name counts (so experts do not).
_CONTAINERS = (
    "layers|layer|h|blocks|block|stages|stage|resblocks|encoder_layers|decoder_layers|conv_layers|transformer_blocks|"
    "down_blocks|up_blocks|blk|single_transformer_blocks|layer_groups|hidden_layers|groups|layer_module"
)
_NUMBERED = re.compile(rf"^((?:.*?[./])??(?:{_CONTAINERS}))\.(\d{{1,9}})\.(.+)$")
#: For models with none of these words, such as a bare nn.Sequential: the first number.
_ANY_NUMBER = re.compile(r"^(?:(.*?)\.)?(\d{1,9})\.(.+)$")


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
        self._places: dict[str, Place] = {}
        self._layers: dict[tuple[str, int], list[str]] = {}
        self.stacks: dict[str, int] = {}
        numbers = {stack: _numbers(stack, found) for stack, found in depths.items()}
        counts = {stack: len(set(found.values())) for stack, found in numbers.items()}
        nested = {stack: any(len(depth) > 1 for depth in found) for stack, found in depths.items()}
        for name, split in found.items():
            if split:
                stack, depth = split
                self._places[name] = Place(stack, numbers[stack][depth], counts[stack], nested[stack])
                self._layers.setdefault((stack, numbers[stack][depth]), []).append(name)
                self.stacks[stack] = counts[stack]

    def place(self, name: str) -> Place | None:
        """The layer a tensor belongs to; None for embeddings, heads and final norms."""
        return self._places.get(name)

    def layer(self, stack: str, number: int) -> list[str]:
        """The tensors of one layer."""
        return self._layers.get((stack, number), [])


def _numbers(stack: str, depths: set[tuple[int, ...]]) -> dict[tuple[int, ...], int]:
    """Depth -> position in the stack.

    What belongs to a stage but to none of its layers (the down-sampling between stages) counts to its nearest layer:
    the last one where stages are called `layers` (Swin down-samples at the end), else the first (ConvNeXt, at the start).
    """
    whole = sorted(depth for depth in depths if len(depth) > 1) or sorted(depths)
    position = {depth: i for i, depth in enumerate(whole)}
    for depth in depths - position.keys():
        inside = [i for other, i in position.items() if other[0] == depth[0]]
        after = [i for other, i in position.items() if other[0] > depth[0]]
        nearest = (
            (inside[-1] if stack.endswith("layers") else inside[0]) if inside else min(after, default=len(whole) - 1)
        )
        position[depth] = nearest
    return position


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
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "depth", "encoder_layers", "decoder_layers",
    "num_decoder_layers", "num_encoder_layers", "n_encoder_layers", "n_decoder_layers",
)  # fmt: skip
#: Lists with one entry a layer, by their keys.
_PER_LAYER = re.compile("layer|block|type|pattern|_heads$|intermediate_size|ffn_multipliers")
#: Lists of the numbers of some layers.
_LAYER_INDICES = (
    "mlp_only_layers", "cross_attention_layers", "moe_layers", "attn_layer_indices", "attention_layer_indices",
    "full_attn_idxs", "global_attn_indexes",
)  # fmt: skip
_TEXT_LEVELS = ("text_config", "llm_config", "language_config", "decoder", "thinker_config")
_VISION_LEVELS = ("vision_config", "vision_tower_config", "encoder")

#: For each slice of the output the source's configuration, and its range of layers [a, b).
_Sources = Sequence[tuple[Mapping[str, Any], int, int]]


def resize_config(
    config: Mapping[str, Any], stack: str, sources: _Sources, old_count: int
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
    for path in _levels(stack):
        found: Any = level(result, *path)  # the dictionary inside `result`
        keys = _count_keys(found, stack, old_count)
        if not keys:
            continue
        for key, value in list(found.items()):
            if is_list(value) and key in _LAYER_INDICES:
                found[key] = _joined_indices(value, key, path, sources)
            elif is_list(value) and len(value) == old_count and _PER_LAYER.search(key):
                found[key] = _joined(value, key, path, sources)
            elif isinstance(value, str) and len(value) == old_count and "pattern" in key:  # one letter a layer
                found[key] = "".join(_joined(list(value), key, path, sources))
        found.update(dict.fromkeys(keys, new_count))
        return result, True
    return result, False


def _count_keys(config: Mapping[str, Any], stack: str, count: int) -> list[str]:
    """The keys that hold the number of layers of this stack; of encoder-decoders only the ones of its side."""
    keys = [key for key in _COUNT_KEYS if config.get(key) == count]
    if "encoder" not in stack and "decoder" not in stack:
        return keys
    side, other = ("decoder", "encoder") if "decoder" in stack else ("encoder", "decoder")
    return [key for key in keys if side in key] or [key for key in keys if other not in key]


def _levels(stack: str) -> list[tuple[str, ...]]:
    if re.search("vision|visual|image|vit", stack):
        return [*((name,) for name in _VISION_LEVELS), ()]
    return [(), *((name,) for name in _TEXT_LEVELS)]


def _joined(own: list[Any], key: str, path: tuple[str, ...], sources: _Sources) -> list[Any]:
    entries: list[Any] = []
    for config, start, stop in sources:
        value = level(config, *path).get(key)
        entries.extend((value if is_list(value) or isinstance(value, str) else own)[start:stop])
    return entries


def _joined_indices(own: list[Any], key: str, path: tuple[str, ...], sources: _Sources) -> list[Any]:
    entries: list[Any] = []
    first = 0
    for config, start, stop in sources:
        value = level(config, *path).get(key)
        entries += [
            first + i - start for i in (value if is_list(value) else own) if type(i) is int and start <= i < stop
        ]
        first += stop - start
    return entries
