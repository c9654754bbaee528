"""Noise on the sources of a training corpus, drawn anew whenever a row is drawn.

Self-training needs it: the target is written for the clean source, and the student reads a noised one (He et al. 2020,
"Revisiting Self-Training for Neural Sequence Generation"). The draws are counter-based random numbers. They depend on
the seed, the corpus, the row id, how often the row was drawn before, and the place of the word, and not on batches,
ranks or restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqkd.errors import ConfigError
from seqkd.models.protocol import Marks, PairLengths
from seqkd.text.noise import Ids, Lengths, NoiseSettings, WordNoise, make_keys
from seqkd.text.ranges import list_ranges
from seqkd.text.vocabularies import TextVocabulary
from seqkd.text.words import find_word_marks

BLANK = "\u2581"  # how SentencePiece writes a blank
BLANKS = ("<blank>", "<mask>", "[MASK]")


class Noise:
    """The noise of the sources of a corpus.

    A row keeps its whole source if the model could not be trained on it with the noise: a CTC student, for example,
    needs a source that is not much shorter than the target.

    Args:
        words: The noise of sentences.
        seed: The seed of the run.
        number: The number of the corpus, from 0.
        unusable: The method `SequenceModel.unusable` of the model.
    """

    def __init__(
        self, words: WordNoise, *, seed: int, number: int, unusable: Callable[[PairLengths], Mapping[str, Marks]]
    ) -> None:
        self._words, self._unusable = words, unusable
        self._seed = np.array([seed]), np.array([number])

    def apply(self, table: pa.Table, draws: npt.NDArray[np.int64]) -> pa.Table:
        """Change the sources of rows.

        Args:
            table: Rows with the columns id, source_ids and target_ids.
            draws: How often each row was drawn before `[rows]`.
        """
        ids, lengths = _flatten(table.column("source_ids"))
        keys = make_keys(*self._seed, draws, table.column("id").to_numpy())
        made, sizes = self._words.change(ids, lengths, keys)
        wrong = self._find_unusable(table, sizes)
        if wrong.any():  # take these rows from the old ids, which stand after the new ones
            starts = np.append(0, np.cumsum(np.concatenate([sizes, lengths])))[:-1]
            which = np.arange(len(wrong)) + wrong * len(wrong)
            sizes = np.where(wrong, lengths, sizes)
            made = np.concatenate([made, ids])[list_ranges(starts[which], sizes)]
        offsets = np.append(0, np.cumsum(sizes)).astype(np.int32)
        column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(made, pa.int32()))
        return table.set_column(table.schema.get_field_index("source_ids"), "source_ids", column)

    def _find_unusable(self, table: pa.Table, sizes: Lengths) -> npt.NDArray[np.bool_]:
        """Mark the rows on which the model cannot be trained with sources of these sizes."""
        targets, lengths = _flatten(table.column("target_ids"))
        owners = np.repeat(np.arange(len(lengths)), lengths)
        again = (targets[1:] == targets[:-1]) & (owners[1:] == owners[:-1])
        repeats = np.bincount(owners[1:][again], minlength=len(lengths))
        pairs = PairLengths(sizes.astype(np.int32), lengths.astype(np.int32), repeats.astype(np.int32))
        wrong = np.zeros(len(lengths), dtype=np.bool_)
        for marks in self._unusable(pairs).values():
            wrong |= marks
        return wrong


def word_noise(settings: NoiseSettings, vocabulary: TextVocabulary, *, tags: Sequence[str], where: str) -> WordNoise:
    """Make the noise of sentences in the pieces of a vocabulary.

    A blanked word becomes a piece of the vocabulary that is made for this, one of `BLANKS`. Otherwise it becomes the
    unknown piece. He et al. 2020 use a token of its own. The unknown piece is one, too, if the vocabulary falls back to
    bytes: no text contains it. In other vocabularies a blank cannot be told from an unknown word, and says no more
    about the sentence than an unknown word does.

    Args:
        settings: The kinds of noise.
        vocabulary: The vocabulary of the sources.
        tags: The pieces with which sources of the corpus begin; an empty one is none. SentencePiece may put the mark
            of a blank before them as a piece of its own.
        where: The corpus, for messages.

    Raises:
        ConfigError: The pieces of the vocabulary do not show where words begin.
    """
    marks = find_word_marks(vocabulary.pieces())
    if marks is None:
        raise ConfigError(
            f"needs the borders of words, which the pieces of {vocabulary.path} do not show",
            where=f"noise of {where}",
            expected="a vocabulary whose pieces mark the beginning or the end of words, such as SentencePiece's",
            hint="leave the noise out, or train with another vocabulary",
        )
    found = (vocabulary.id_of(piece) for piece in BLANKS)
    blank = next((index for index in found if index is not None), vocabulary.unk_id)
    opening = [vocabulary.id_of(tag) for tag in (*filter(None, tags), *([BLANK] if any(tags) else []))]
    first = [*vocabulary.prefix, *(index for index in opening if index is not None)]
    return WordNoise(settings, marks, blank=blank, first=first)


def _flatten(column: pa.ChunkedArray) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Return all ids of a column in one array, and the number of ids of each row."""
    lists = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return lists.flatten().to_numpy(zero_copy_only=False), np.diff(lists.offsets.to_numpy()).astype(np.int64)
