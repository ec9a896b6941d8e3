"""Checkpoints: readers, the sharded writer, the Hub, object stores."""

from modelwright.checkpoint._adapter import (
    Change as Change,
    Joined as Joined,
    join_adapter as join_adapter,
    with_adapters as with_adapters,
)
from modelwright.checkpoint._adapter_files import (
    Adapter as Adapter,
    adapter_at_path as adapter_at_path,
    open_adapter as open_adapter,
)
from modelwright.checkpoint._adapter_modules import AdaptedModule as AdaptedModule, AdapterKind as AdapterKind
from modelwright.checkpoint._adapter_scales import adapter_scales as adapter_scales
from modelwright.checkpoint._checkpoint import Checkpoint as Checkpoint, Part as Part
from modelwright.checkpoint._dequantize import as_stored as as_stored
from modelwright.checkpoint._files import from_pieces as from_pieces, pieces as pieces
from modelwright.checkpoint._fsspec import (
    Stamp as Stamp,
    is_inside as is_inside,
    is_url as is_url,
    plain_path as plain_path,
    user_path as user_path,
)
from modelwright.checkpoint._gguf import (
    Quantised as Quantised,
    quantisation_error as quantisation_error,
    quantised as quantised,
)
from modelwright.checkpoint._gguf_output import write_gguf as write_gguf
from modelwright.checkpoint._hub_output import HubFile as HubFile, HubRepo as HubRepo, HubState as HubState
from modelwright.checkpoint._open import open as open
from modelwright.checkpoint._quantise import (
    FLOAT8 as FLOAT8,
    GRAINS as GRAINS,
    Grain as Grain,
    quantise as quantise,
    rounding as rounding,
)
from modelwright.checkpoint._refs import (
    FileSpan as FileSpan,
    NumpyArray as NumpyArray,
    TensorRef as TensorRef,
    array_ref as array_ref,
    file_state as file_state,
    keep_open as keep_open,
)
from modelwright.checkpoint._remote import cache_folder as cache_folder
from modelwright.checkpoint._safetensors import (
    Shard as Shard,
    index_json as index_json,
    lay_out as lay_out,
    read_header as read_header,
)
from modelwright.checkpoint._store import BUNDLE as BUNDLE, MANIFEST as MANIFEST, RemoteFolder as RemoteFolder
from modelwright.checkpoint._untrusted import (
    parse_json as parse_json,
    read_json as read_json,
    read_small as read_small,
)
