"""Checkpoints: readers, the sharded writer, the Hub."""

from modelwright.checkpoint._checkpoint import Checkpoint as Checkpoint
from modelwright.checkpoint._checkpoint import Part as Part
from modelwright.checkpoint._open import open as open
from modelwright.checkpoint._open import read_json as read_json
from modelwright.checkpoint._refs import NumpyArray as NumpyArray
from modelwright.checkpoint._refs import TensorRef as TensorRef
from modelwright.checkpoint._safetensors import Shard as Shard
from modelwright.checkpoint._safetensors import index_json as index_json
from modelwright.checkpoint._safetensors import lay_out as lay_out
