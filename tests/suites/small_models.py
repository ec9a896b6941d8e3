"""Published models and data sets in small: tiny CLIP and T5 folders under the ids that suites name."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_clip(root: Path, base: str, experts: Sequence[str]) -> None:
    """A whole CLIP with tokenizer and preprocessing, and experts that are vision towers alone."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 260,
        "max_position_embeddings": 77,
        "eos_token_id": 259,
        "bos_token_id": 258,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    torch.manual_seed(0)
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    whole.save_pretrained(root / base)
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = Tokenizer(models.BPE({**letters, "<|start|>": 258, "<|end|>": 259}, []))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.post_processor = processors.TemplateProcessing(
        single="<|start|> $A <|end|>", special_tokens=[("<|start|>", 258), ("<|end|>", 259)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>"
    ).save_pretrained(root / base)
    (root / base / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "do_resize": true, "size": {"shortest_edge": 16}, "do_center_crop": true, '
        '"crop_size": {"height": 16, "width": 16}, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], '
        '"do_rescale": true, "do_convert_rgb": true, "resample": 3}'
    )
    for number, name in enumerate(experts):
        torch.manual_seed(number + 1)
        with torch.no_grad():
            for value in whole.vision_model.parameters():
                value.add_(0.02 * torch.randn_like(value))
        whole.vision_model.save_pretrained(root / name)


def write_pictures(folder: Path, split: str, labels: Sequence[int], column: str = "label") -> None:
    """Encoded images with labels, as the Hub has them."""
    from PIL import Image

    rng = np.random.default_rng(len(labels))
    encoded = []
    for label in labels:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8) // (label + 1)).save(file, format="PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    write_parquet(folder, split, {"image": encoded, column: list(labels)})


def write_parquet(folder: Path, split: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """A split in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({name: list(values) for name, values in columns.items()}), folder / f"{split}-00000-of-00001.parquet"
    )


def write_t5(root: Path, base: str, experts: Sequence[str]) -> None:
    """A T5 with its tokenizer, and experts with other weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    names = ["<pad>", "</s>", "<unk>", "yes", "no", "acceptable", "unacceptable", "4.0", "ship", "sea", "the", "on"]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = T5Config(
        vocab_size=len(names), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    for number, name in enumerate((base, *experts)):
        torch.manual_seed(number)
        T5ForConditionalGeneration(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
