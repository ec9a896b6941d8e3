"""Checkpoints: readers, the sharded writer, the Hub."""

from modelwright.checkpoint._checkpoint import Checkpoint as Checkpoint, Part as Part
from modelwright.checkpoint._open import open as open
from modelwright.checkpoint._refs import NumpyArray as NumpyArray, TensorRef as TensorRef
from modelwright.checkpoint._safetensors import Shard as Shard, index_json as index_json, lay_out as lay_out
from modelwright.checkpoint._untrusted import read_json as read_json, read_small as read_small
