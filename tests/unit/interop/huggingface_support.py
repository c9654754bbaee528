"""Small Hugging Face folders with random weights, made by the library itself."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import sentencepiece
import torch

from seqkd.interop import huggingface_library

transformers: Any = huggingface_library.transformers  # the tests use classes without the types of their options

_DRAW = random.Random(7)
_WORDS = ["".join(_DRAW.choice("abdegiklmnorstuv") for _ in range(_DRAW.randint(2, 7))) for _ in range(120)]
SENTENCES = [" ".join(_DRAW.choice(_WORDS) for _ in range(_DRAW.randint(1, 9))) for _ in range(160)]

SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "dropout": 0.1,
}


def train_pieces(path: Path, *, kind: str = "unigram", first: int = 0, size: int = 90, **special: Any) -> list[str]:
    """Train a SentencePiece model and return its pieces."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES[first:]),
        model_prefix=str(path.with_suffix("")),
        vocab_size=size,
        model_type=kind,
        character_coverage=1.0,
        minloglevel=2,
        **special,
    )
    made = path.with_suffix(".model")
    if made != path:
        made.rename(path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces: list[str] = processor.id_to_piece(list(range(processor.get_piece_size())))
    return pieces


def randomise(model: Any) -> Any:
    """Give a model biases and norms that are not trivial, and peaked distributions."""
    pad = model.config.pad_token_id
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(torch.randn_like(parameter) * (0.15 if parameter.dim() > 1 else 0.1))
        decoder = model.model.decoder
        last = decoder.layer_norm if hasattr(decoder, "layer_norm") else decoder.layers[-1].final_layer_norm
        last.bias.fill_(0.5)
        for name, table in model.named_parameters():
            if "embed_tokens" in name or "shared" in name:
                table[pad] = 0.0
    return model.eval()


def save(model: Any, folder: Path) -> None:
    """Make the end of sentence about as likely as the likeliest piece, so that outputs end, and write the model."""
    eos, size = model.config.eos_token_id, model.config.vocab_size
    ids = torch.arange(4, size - 1)[: 4 * ((size - 5) // 4)].view(4, -1)[:, :12]
    tables = [table for name, table in model.named_parameters() if "embed_tokens" in name or "shared" in name]
    with torch.no_grad():
        for _ in range(3):
            logits = model(input_ids=ids, decoder_input_ids=ids).logits
            missing = float((logits.amax(-1) - logits[..., eos]).mean()) + 0.5
            for table in tables:  # all outputs of the last norm have the bias 0.5 in common
                table[eos] += missing / (0.5 * table.size(1))
    model.save_pretrained(folder)


def marian(folder: Path, *, tags: tuple[str, ...] = (), **options: Any) -> Any:
    """Make a MarianMT folder: two SentencePiece models, one table, the end 0, unknown 1 and padding last."""
    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    special: dict[str, Any] = {"eos_id": 0, "unk_id": 1, "bos_id": -1, "pad_id": -1}
    own = [
        train_pieces(folder / name, first=first, **special) for name, first in (("source.spm", 0), ("target.spm", 60))
    ]
    table = ["</s>", "<unk>", *tags, *dict.fromkeys(piece for pieces in own for piece in pieces[2:]), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(table)}))
    paths = (str(folder / name) for name in ("source.spm", "target.spm", "vocab.json"))
    transformers.MarianTokenizer(*paths).save_pretrained(folder)
    pad = len(table) - 1
    config = transformers.MarianConfig(
        vocab_size=len(table),
        pad_token_id=pad,
        eos_token_id=0,
        decoder_start_token_id=pad,
        forced_eos_token_id=None,
        scale_embedding=True,
        **{**SIZES, "activation_function": "swish", **options},
    )
    model = randomise(transformers.MarianMTModel(config))
    model.final_logits_bias.normal_(std=0.5)
    save(model, folder)
    return model


def nllb(folder: Path) -> Any:
    """Make a folder as NLLB's: an M2M100 model and a tokenizer with codes of languages."""
    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    train_pieces(folder / "sentencepiece.bpe.model", kind="bpe", unk_id=0, bos_id=1, eos_id=2)
    codes = ["eng_Latn", "deu_Latn", "fra_Latn"]
    tokenizer = transformers.NllbTokenizer.from_pretrained(str(folder), extra_special_tokens=codes)
    tokenizer.save_pretrained(folder)
    config = transformers.M2M100Config(
        **SIZES, vocab_size=len(tokenizer) + 3, scale_embedding=True, activation_function="relu", init_std=0.3
    )
    model = randomise(transformers.M2M100ForConditionalGeneration(config))
    save(model, folder)
    return model


def m2m100(folder: Path) -> Any:
    """Make an M2M100 folder, whose tokenizer has a table of pieces."""
    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    pieces = train_pieces(folder / "sentencepiece.bpe.model", kind="bpe", unk_id=0, bos_id=1, eos_id=2)
    table = ["<s>", "<pad>", "</s>", "<unk>", *pieces[3:]]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(table)}))
    # In published folders special_tokens_map.json lists the codes of the languages.
    tokenizer = transformers.M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    codes = {"additional_special_tokens": list(tokenizer.lang_token_to_id)}
    (folder / "special_tokens_map.json").write_text(json.dumps(codes))
    tokenizer = transformers.M2M100Tokenizer.from_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    config = transformers.M2M100Config(**SIZES, vocab_size=len(tokenizer) + 8)
    model = randomise(transformers.M2M100ForConditionalGeneration(config))
    save(model, folder)
    return model


def mbart50(folder: Path) -> Any:
    """Make an mBART-50 folder."""
    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    train_pieces(folder / "sentencepiece.bpe.model", unk_id=0, bos_id=1, eos_id=2)
    tokenizer = transformers.MBart50Tokenizer.from_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    config = transformers.MBartConfig(
        **SIZES,
        vocab_size=len(tokenizer),
        scale_embedding=True,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    model = randomise(transformers.MBartForConditionalGeneration(config))
    model.generation_config.forced_bos_token_id = tokenizer.convert_tokens_to_ids("de_DE")
    model.final_logits_bias.normal_(std=0.5)
    save(model, folder)
    return model


def mbart(folder: Path, *, start: str | None = "de_DE") -> Any:
    """Make a folder of mBART's first form: sources end with their language, and the decoder starts with its own."""
    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    train_pieces(folder / "sentencepiece.bpe.model", unk_id=0, bos_id=1, eos_id=2)
    tokenizer = transformers.MBartTokenizer.from_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    config = transformers.MBartConfig(
        **SIZES,
        vocab_size=len(tokenizer),
        scale_embedding=True,
        decoder_start_token_id=None if start is None else tokenizer.convert_tokens_to_ids(start),
        forced_eos_token_id=None,
    )
    model = randomise(transformers.MBartForConditionalGeneration(config))
    model.final_logits_bias.normal_(std=0.5)
    save(model, folder)
    return model


def bart(folder: Path, **options: Any) -> Any:
    """Make a BART folder, whose tokenizer has bytes for pieces."""
    from tokenizers import ByteLevelBPETokenizer

    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    inner = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    inner.train_from_iterator(SENTENCES, vocab_size=330, special_tokens=special, show_progress=False)
    inner.save_model(str(folder))
    tokenizer = transformers.BartTokenizer.from_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    config = transformers.BartConfig(**{**SIZES, **options}, vocab_size=len(tokenizer), forced_eos_token_id=None)
    model = randomise(transformers.BartForConditionalGeneration(config))
    save(model, folder)
    return model


def t5(folder: Path) -> Any:
    """Make a T5 folder, with relative positions and gated activations."""
    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    train_pieces(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = transformers.T5Tokenizer.from_pretrained(str(folder), extra_ids=0)
    tokenizer.save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(3.0)
        model.lm_head.weight[1] += 0.2
    model.generation_config.suppress_tokens = [0]  # random weights would write padding
    model.save_pretrained(folder)
    return model
