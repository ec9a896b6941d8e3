"""What differs between architectures, as data: layer naming, ends, tied weights, quantised formats, config keys.

No list of supported architectures: everything here is read from tensor names and falls back to something sensible.
"""

from modelwright.architectures._ends import comes_after_layers as comes_after_layers
from modelwright.architectures._layers import Layout as Layout
from modelwright.architectures._layers import Place as Place
from modelwright.architectures._layers import renumbered as renumbered
from modelwright.architectures._layers import resize_config as resize_config
from modelwright.architectures._modules import module_of as module_of
from modelwright.architectures._quantized import SCALE_SUFFIXES as SCALE_SUFFIXES
from modelwright.architectures._quantized import unsupported_quantization as unsupported_quantization
from modelwright.architectures._tied import tie_source as tie_source
from modelwright.architectures._tied import ties_embeddings as ties_embeddings
from modelwright.architectures._tied import vocabulary_tensor as vocabulary_tensor
