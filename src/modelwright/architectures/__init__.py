"""What differs between architectures, as data: layer naming, ends, tied weights, quantised formats, config keys.

No list of supported architectures: everything here is read from tensor names and falls back to something sensible.
"""

from modelwright.architectures._buffers import is_computed as is_computed
from modelwright.architectures._ends import comes_after_layers as comes_after_layers
from modelwright.architectures._json import (
    is_list as is_list,
    is_mapping as is_mapping,
    is_table as is_table,
    is_text as is_text,
    level as level,
)
from modelwright.architectures._layers import (
    Layout as Layout,
    Place as Place,
    renumbered as renumbered,
    resize_config as resize_config,
)
from modelwright.architectures._modules import (
    MODULES as MODULES,
    is_embedding as is_embedding,
    module_of as module_of,
    module_path as module_path,
    stores_transposed as stores_transposed,
)
from modelwright.architectures._quantized import (
    SCALE_SUFFIXES as SCALE_SUFFIXES,
    quantization_settings as quantization_settings,
    scale_names as scale_names,
    unsupported_quantization as unsupported_quantization,
)
from modelwright.architectures._tied import (
    over_vocabulary as over_vocabulary,
    tie_source as tie_source,
    ties_embeddings as ties_embeddings,
    vocabulary_rows as vocabulary_rows,
    vocabulary_tensor as vocabulary_tensor,
)
