"""Write a MarianMT folder: `python data/opus-mt/teacher.py --out DIR --text SOURCE TARGET [--size N]`.

If the environment variable OPUS_MT names a MarianMT folder of Hugging Face, `DIR/model` is a link to it. Otherwise
`DIR/model` is a small MarianMT model with random weights. Its SentencePiece models are trained on the two files of
text. Such a model translates nothing; it shows that a pipeline works from end to end. It needs the extra `hf`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

VARIABLE = "OPUS_MT"
MODEL = "model"
END, UNKNOWN, PADDING = "</s>", "<unk>", "<pad>"


def link(folder: Path, out: Path) -> None:
    """Make `out` a link to a folder.

    Raises:
        ValueError: The folder is not a model folder.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{VARIABLE} is {folder}, which has no config.json; give the folder of a MarianMT model")
    out.symlink_to(folder.resolve(), target_is_directory=True)


def make_model(text: list[Path], out: Path, size: int) -> None:
    """Write a model with random weights, and a tokenizer of the text.

    Args:
        text: The files of the source side and of the target side.
        out: The folder for the model.
        size: The most pieces on each side.
    """
    import torch

    from seqkd.interop.huggingface_library import transformers as library

    transformers: Any = library
    out.mkdir()
    pieces = ["source.spm", "target.spm"]
    sides = [_train_pieces(file, out / name, size) for file, name in zip(text, pieces, strict=True)]
    table = [END, UNKNOWN, *dict.fromkeys(piece for side in sides for piece in side[2:]), PADDING]
    (out / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(table)}))
    transformers.MarianTokenizer(*(str(out / name) for name in (*pieces, "vocab.json"))).save_pretrained(out)
    torch.manual_seed(1)
    padding = len(table) - 1
    model = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=len(table),
            d_model=128,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=512,
            decoder_ffn_dim=512,
            max_position_embeddings=512,
            activation_function="swish",
            scale_embedding=True,
            pad_token_id=padding,
            eos_token_id=0,
            decoder_start_token_id=padding,
            forced_eos_token_id=None,
        )
    )
    model.final_logits_bias[0, 0] = 1.0  # about as likely as the likeliest piece, so that outputs end
    model.save_pretrained(out)


def _train_pieces(text: Path, out: Path, size: int) -> list[str]:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(out.with_suffix("")),
        vocab_size=size,
        hard_vocab_limit=False,  # a small text has fewer pieces
        character_coverage=1.0,
        eos_id=0,
        unk_id=1,
        bos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    out.with_suffix(".model").rename(out)
    out.with_suffix(".vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out))
    return [processor.id_to_piece(index) for index in range(processor.get_piece_size())]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=f"Write a MarianMT folder, or a link to that of {VARIABLE}.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--text", type=Path, nargs=2, required=True, help="training text of both sides")
    parser.add_argument("--size", type=int, default=8000, help="most pieces on each side (default: %(default)s)")
    options = parser.parse_args(arguments)
    given, model = os.environ.get(VARIABLE), options.out / MODEL
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if model.is_symlink():
            model.unlink()
        elif model.exists():  # from a run before, perhaps not whole
            _remove(model)
        if given:
            link(Path(given), model)
        else:
            make_model(options.text, model, options.size)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"teacher: {given or 'a MarianMT model with random weights'} in {model}", file=sys.stderr)
    return 0


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
