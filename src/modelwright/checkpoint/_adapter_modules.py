"""What adapters of each kind make of a weight: the arithmetic, one module at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from modelwright.checkpoint._refs import NumpyArray, TensorRef

#: `lora`: scale * B @ A, of linear layers and convolutions; `embedding`: its transpose; `loha`: a product of two such, entry by
#: entry; `lokr`: a Kronecker product; `ia3`: the weight's rows or columns times a vector.
AdapterKind = Literal["lora", "embedding", "loha", "lokr", "ia3"]
Shape = tuple[int, ...]

#: The tensors that a kind cannot do without.
NEEDED: Mapping[AdapterKind, tuple[str, ...]] = {
    "lora": ("lora_A", "lora_B"),
    "embedding": ("lora_embedding_A", "lora_embedding_B"),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "lokr": (),
    "ia3": ("ia3_l",),
}


@dataclass(frozen=True)
class AdaptedModule:
    """What an adapter does to the weight of one module.

    Matrices stand as linear layers have them, (out, in); kernels of convolutions as (out, in * size of the kernel); tables of
    embeddings as (rows, width). GPT-2 and its like store their weights the other way round, which is the model's affair.

    Attributes:
        module: Its path in the model that was tuned.
        kind: Which arithmetic.
        pieces: The adapter's tensors, by the names that peft has for them.
        scale: What the product is multiplied with.
        bias: What is added to the module's bias, before scaling.
        magnitude: DoRA's norms: the sum of weight and product is brought to these.
        own: What the adapter brings in place of the model's weight.
        inputs: Of `ia3`: whether the vector belongs to the module's inputs, and not to its outputs.
    """

    module: str
    kind: AdapterKind
    pieces: Mapping[str, TensorRef]
    scale: float = 1.0
    bias: TensorRef | None = field(default=None)
    magnitude: TensorRef | None = None
    own: TensorRef | None = None
    inputs: bool = False

    @property
    def linear(self) -> bool:
        """Whether what is added to the weight does not depend on it."""
        return self.kind != "ia3" and self.magnitude is None

    @property
    def shape(self) -> Shape | None:
        """Shape of what is added, before it is laid flat; None where it takes the weight's."""
        shapes = {name: ref.shape for name, ref in self.pieces.items()}
        if self.kind == "lora":
            return (shapes["lora_B"][0], *shapes["lora_A"][1:])
        if self.kind == "embedding":
            return shapes["lora_embedding_A"][1], shapes["lora_embedding_B"][0]
        if self.kind == "loha":
            if "hada_t1" in shapes:
                return (shapes["hada_w1_a"][1], shapes["hada_w1_b"][1], *shapes["hada_t1"][2:])
            return shapes["hada_w1_a"][0], shapes["hada_w1_b"][1]
        if self.kind == "lokr":
            one, two = self._lokr_shapes(shapes)
            return (one[0] * two[0], one[1] * two[1], *two[2:])
        return None

    def _lokr_shapes(self, shapes: Mapping[str, Shape]) -> tuple[Shape, Shape]:
        """Shapes of the two factors of the Kronecker product."""
        one = shapes.get("lokr_w1") or (shapes["lokr_w1_a"][0], shapes["lokr_w1_b"][1])
        if "lokr_w2" in shapes:
            return one, shapes["lokr_w2"]
        a, b = shapes["lokr_w2_a"], shapes["lokr_w2_b"]
        return one, (a[1], b[1], *shapes["lokr_t2"][2:]) if "lokr_t2" in shapes else (a[0], b[1])

    @property
    def rank(self) -> int | None:
        """Of its factors; None for kinds that are no product of two."""
        if self.kind == "lora":
            return self.pieces["lora_A"].shape[0]
        return self.pieces["lora_embedding_A"].shape[0] if self.kind == "embedding" else None

    def factors(self) -> tuple[NumpyArray, NumpyArray]:
        """What is added to the weight as a product: up (rows, rank) with the scale in it, and down (rank, columns)."""
        up, down = self._factors()
        return up * up.dtype.type(self.scale), down

    def _factors(self) -> tuple[NumpyArray, NumpyArray]:
        if self.kind == "embedding":
            return self._wide("lora_embedding_A").T, self._wide("lora_embedding_B").T
        down, up = self._wide("lora_A"), self._wide("lora_B")
        rank = down.shape[0]
        return up.reshape(-1, rank), down.reshape(rank, -1)

    def delta(self) -> NumpyArray:
        """What is added to the weight, of two axes; only where that does not depend on it."""
        assert self.linear
        return self._product()

    def changed(self, weight: NumpyArray, basis: NumpyArray, transposed: bool) -> NumpyArray:
        """The weight with this module's change.

        Args:
            weight: What other adapters have made of it, float32 or float64, of the model's shape.
            basis: The model's own, which the norms of DoRA are taken of.
            transposed: Whether the model stores it (in, out).
        """
        if self.kind == "ia3":
            vector = self._wide("ia3_l").reshape(-1)
            return weight * _along(vector, weight.ndim, 1 - int(self.inputs) if transposed else int(self.inputs))
        product = self._product().astype(weight.dtype, copy=False)
        product = (product.T if transposed else product).reshape(weight.shape)
        if self.magnitude is None:
            return weight + product
        axis = 1 if self.kind == "embedding" or transposed else 0  # which has one norm an entry
        total = basis + product
        rest = tuple(i for i in range(total.ndim) if i != axis)
        norm = np.sqrt(np.sum(np.square(total, dtype=np.float64), axis=rest)).astype(weight.dtype)
        share = self.magnitude.read().reshape(-1).astype(weight.dtype) / norm
        return weight + (_along(share, total.ndim, axis) * total - basis)

    def changed_bias(self, bias: NumpyArray) -> NumpyArray:
        """The module's bias with this module's change."""
        if self.kind == "ia3":
            return bias if self.inputs else bias * self._wide("ia3_l").reshape(-1)
        return bias if self.bias is None else bias + bias.dtype.type(self.scale) * _wide(self.bias)

    def _product(self) -> NumpyArray:
        if self.kind in ("lora", "embedding"):
            up, down = self._factors()
            made = up @ down
            return made * made.dtype.type(self.scale)
        made = self._loha() if self.kind == "loha" else self._lokr()
        return (made * made.dtype.type(self.scale)).reshape(made.shape[0], -1)

    def _loha(self) -> NumpyArray:
        if "hada_t1" in self.pieces:
            return self._tucker("hada_t1", "hada_w1_a", "hada_w1_b") * self._tucker("hada_t2", "hada_w2_a", "hada_w2_b")
        one = self._wide("hada_w1_a") @ self._wide("hada_w1_b")
        return one * (self._wide("hada_w2_a") @ self._wide("hada_w2_b"))

    def _lokr(self) -> NumpyArray:
        one = self._wide("lokr_w1") if "lokr_w1" in self.pieces else self._wide("lokr_w1_a") @ self._wide("lokr_w1_b")
        if "lokr_w2" in self.pieces:
            two = self._wide("lokr_w2")
        elif "lokr_t2" in self.pieces:
            two = self._tucker("lokr_t2", "lokr_w2_a", "lokr_w2_b")
        else:
            two = self._wide("lokr_w2_a") @ self._wide("lokr_w2_b")
        return np.kron(one.reshape(*one.shape, *[1] * (two.ndim - 2)), two)

    def _tucker(self, core: str, left: str, right: str) -> NumpyArray:
        """A kernel in Tucker's form: (rank, rank, ..) with (rank, out) and (rank, in) to (out, in, ..)."""
        made: Any = np.einsum("ij...,ip,jr->pr...", self._wide(core), self._wide(left), self._wide(right))
        return made

    def _wide(self, name: str) -> NumpyArray:
        return _wide(self.pieces[name])


def _wide(ref: TensorRef) -> NumpyArray:
    values = ref.read()
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)


def _along(vector: NumpyArray, axes: int, axis: int) -> NumpyArray:
    """A vector that meets one axis of an array."""
    return vector.reshape([-1 if i == axis else 1 for i in range(axes)])
