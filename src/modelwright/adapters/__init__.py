"""Adapters: merged into one, extracted from fine-tunes, baked into models, and compared."""

from modelwright.adapters._apply import apply_adapters as apply_adapters
from modelwright.adapters._extract import ExtractedAdapter as ExtractedAdapter, extract_adapter as extract_adapter
from modelwright.adapters._knots import knots as knots
from modelwright.adapters._lego import lora_lego as lora_lego
from modelwright.adapters._merge import (
    ADAPTER_METHODS as ADAPTER_METHODS,
    MergedAdapter as MergedAdapter,
    MergedModule as MergedModule,
    merge_adapters as merge_adapters,
)
from modelwright.adapters._method import AdapterMethod as AdapterMethod
from modelwright.adapters._mos import pulled as pulled
from modelwright.adapters._overlap import (
    ModuleOverlap as ModuleOverlap,
    Overlap as Overlap,
    PairOverlap as PairOverlap,
    overlap as overlap,
)
from modelwright.adapters._sums import weighted_sum as weighted_sum
from modelwright.checkpoint import Adapter as Adapter, open_adapter as open_adapter
