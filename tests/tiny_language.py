"""Tiny random language models and tokenizers, made from configurations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KINDS = ("gpt2", "llama", "mamba")
WINDOW = 32


def tokenizer(*, start: str | None = None, end: str | None = "</s>", merges: Sequence[tuple[str, str]] = ()) -> Any:
    """Bytes, and a few merges. With `start` each text begins with that token; there is no pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    table = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocab=table, merges=list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    if start:
        made.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, table[start])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=start, eos_token=end)


def model(kind: str = "llama", vocabulary: int = 258, seed: int = 0, scale: float = 4.0) -> Any:
    """A model in evaluation mode whose weights are large enough that its answers differ."""
    import torch
    import transformers as hf

    ends = {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": vocabulary}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2}
    torch.manual_seed(seed)
    if kind == "gpt2":
        made = hf.GPT2LMHeadModel(hf.GPT2Config(n_positions=WINDOW, n_embd=16, n_layer=2, n_head=2, **ends))
    elif kind == "llama":
        made = hf.LlamaForCausalLM(
            hf.LlamaConfig(
                intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=WINDOW,
                **sizes, **ends,
            )
        )  # fmt: skip
    else:
        made = hf.MambaForCausalLM(hf.MambaConfig(state_size=4, **sizes, **ends))
    with torch.no_grad():
        for name, value in made.named_parameters():
            if value.ndim > 1 and not name.endswith("A_log"):
                value.mul_(scale)
    return made.eval()


def uniform(vocabulary: int = 258) -> Any:
    """A model to which every token is as probable."""
    made = model("llama", vocabulary)
    made.lm_head.weight.data.zero_()
    return made


def save(folder: Path, module: Any, words: Any) -> Path:
    """A model folder."""
    module.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@contextmanager
def failing(module: Any) -> Iterator[None]:
    """All logits are NaN."""
    head = module.get_output_embeddings()
    kept = head.weight.data.clone()
    head.weight.data.fill_(float("nan"))
    try:
        yield
    finally:
        head.weight.data.copy_(kept)
