"""Real tokenizers and tiny text encoders for the testbed: CLIP (BOS, EOS, padding) and T5 (EOS, padding)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from .planted import items
from .world import WORLDS, all_scenes

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_LENGTH = 16  # tokens; pass it to the pipeline as max_sequence_length
CLIP_DIM, T5_DIM = 64, 96  # of the flow family
CLIP_UNET_DIM = 96


def _words(words: Sequence[str]) -> list[str]:
    """The words of all captions: those of the neutral worlds, and ``words`` (those of the book's items if none)."""
    words = words or [w for i in items() for w in i.caption.split()]
    return sorted({w for world in WORLDS for s in all_scenes(world) for w in s.caption.split()} | set(words))


def clip_tokenizer(words: Sequence[str] = ()) -> CLIPTokenizer:
    """Byte-pair tokenizer fitted to the captions: every word of theirs is one token, any other is spelled in letters.

    All letters are given beforehand, in their order: the trainer would number them as its hash tables list them, which
    is another order in every process, and a training that is resumed would find its words exchanged.
    """
    found = [w.lower() for w in _words(words)]
    letters = sorted({c for w in found for c in w} | set(LETTERS))
    special = ["<|startoftext|>", "<|endoftext|>", "<|pad|>"]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=20000, end_of_word_suffix="</w>", show_progress=False, initial_alphabet=[],
        special_tokens=[*special, *letters, *(c + "</w>" for c in letters)],
    )  # fmt: skip
    bpe.train_from_iterator([" ".join(found)], trainer)
    state = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    return CLIPTokenizer(
        vocab=state["vocab"], merges=merges, unk_token="<|endoftext|>", pad_token="<|pad|>", model_max_length=MAX_LENGTH
    )


def t5_tokenizer(words: Sequence[str] = ()) -> T5Tokenizer:
    """Unigram tokenizer with one piece a word; other words are spelled in letters."""
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -6.0}
    pieces |= {"▁" + w: -2.0 for w in _words(words)}
    for letter in LETTERS:
        pieces.setdefault(letter, -9.0)
    return T5Tokenizer(vocab=list(pieces.items()), extra_ids=0, model_max_length=MAX_LENGTH)


def clip_encoder(tokenizer: CLIPTokenizer, width: int = CLIP_DIM) -> CLIPTextModel:
    """Two-layer CLIP text model: its pooled state conditions the adaptive layer norms of the transformer, its token
    states the cross-attention of the U-Net."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, projection_dim=width, intermediate_size=4 * width,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Two-layer T5 encoder; its token states are the text stream of the transformer."""
    config = T5Config(
        vocab_size=len(tokenizer), d_model=T5_DIM, d_kv=24, d_ff=3 * T5_DIM, num_layers=2, num_heads=4,
        relative_attention_num_buckets=16, relative_attention_max_distance=32, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return T5EncoderModel(config)


def tokenize(clip: CLIPTokenizer, t5: T5Tokenizer, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids exactly as FluxPipeline makes them: ([n, MAX_LENGTH], [n, MAX_LENGTH]), no attention mask."""
    options = dict(padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt")
    return clip(captions, **options).input_ids, t5(captions, **options).input_ids
