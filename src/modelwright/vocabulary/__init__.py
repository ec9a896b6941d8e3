"""Vocabularies: tokenizers as files, what their tokens mean, their union, and embeddings re-laid from one to another."""

from modelwright.vocabulary._compare import (
    Encoded as Encoded,
    TokenizerDifference as TokenizerDifference,
    compare as compare,
    encoded as encoded,
)
from modelwright.vocabulary._config import Renumber as Renumber, settled as settled
from modelwright.vocabulary._layout import (
    MEAN as MEAN,
    ZERO as ZERO,
    Laid as Laid,
    Override as Override,
    Rows as Rows,
    lay_rows as lay_rows,
)
from modelwright.vocabulary._probes import PROBES as PROBES, Probe as Probe
from modelwright.vocabulary._relaid import relaid as relaid
from modelwright.vocabulary._templates import kept_template as kept_template, markup as markup, rendered as rendered
from modelwright.vocabulary._tokenizer import (
    ROLES as ROLES,
    TOKENIZER_FILES as TOKENIZER_FILES,
    Tokenizer as Tokenizer,
    byte_characters as byte_characters,
    defects as defects,
    file_beside as file_beside,
    matching as matching,
    open_tokenizer as open_tokenizer,
    tokenizer_of as tokenizer_of,
)
from modelwright.vocabulary._union import Union as Union, union as union, with_tokens as with_tokens
