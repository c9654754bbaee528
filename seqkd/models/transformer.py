"""The encoder-decoder Transformer (Vaswani et al. 2017), on torch's scaled_dot_product_attention.

Blocks take plain arguments and do not depend on files or configuration. As in fairseq, linear layers have biases and
embeddings are scaled by sqrt(dim), so that the parameters of fairseq checkpoints map onto these one to one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.functional import Dropout, Watcher, attend, feed_forward, linear
from seqkd.models.protocol import Marks, PairLengths, too_long
from seqkd.models.settings import Activation, Embeddings, StackSettings, TransformerSettings
from seqkd.text.vocabulary import EOS_ID, PAD_ID, UNK_ID

# fairseq numbers positions from its padding id plus one. With the same offset, imported models compute the same values.
POSITION_OFFSET = 2


def sinusoidal_table(positions: int, dim: int, offset: int = POSITION_OFFSET) -> Tensor:
    """Compute fixed position embeddings: sines in the first half of the features, cosines in the second.

    Args:
        positions: Number of positions.
        dim: Width of the embeddings.
        offset: The number of the first position.

    Returns:
        `[positions, dim]` float32.
    """
    half = dim // 2
    rate = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10_000) / max(half - 1, 1)))
    angle = (torch.arange(positions, dtype=torch.float32) + offset)[:, None] * rate[None]
    table = torch.zeros(positions, dim)
    table[:, :half] = torch.sin(angle)
    table[:, half : 2 * half] = torch.cos(angle)
    return table


def embedding_tables(
    source_vocab: int, target_vocab: int, dim: int, embeddings: Embeddings
) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """Make the tables of target, source and output, each `[vocab, dim]`. Shared tables are one parameter.

    Raises:
        ValueError: One table is requested for both sides, but the sizes of the vocabularies differ.
    """
    if embeddings == "shared" and source_vocab != target_vocab:
        raise ValueError(f"shared embeddings need one vocabulary, got {source_vocab} and {target_vocab} pieces")

    def table(size: int) -> nn.Parameter:
        weight = nn.init.normal_(torch.empty(size, dim), std=dim**-0.5)
        weight[PAD_ID] = 0
        return nn.Parameter(weight)

    target = table(target_vocab)
    source = target if embeddings == "shared" else table(source_vocab)
    return target, source, table(target_vocab) if embeddings == "separate" else target


def position_table(settings: StackSettings, count: int) -> Tensor:
    """Make position embeddings `[count, dim]`: fixed sines, which a model does not store, or a table to be trained."""
    dim = settings.dim
    if settings.positions == "learned":
        return nn.Parameter(nn.init.normal_(torch.empty(count, dim), std=dim**-0.5))
    return nn.Buffer(sinusoidal_table(count, dim, settings.position_offset), persistent=False)


def layer_norm(settings: StackSettings) -> nn.LayerNorm:
    """Make a layer norm of the model's width."""
    return nn.LayerNorm(settings.dim, eps=settings.norm_epsilon)


def last_norm(settings: StackSettings) -> nn.Module:
    """Make the module at the end of a stack: a layer norm if the layers have theirs before the blocks."""
    return layer_norm(settings) if settings.norm == "pre" else nn.Identity()


def split_heads(x: Tensor, heads: int) -> Tensor:
    """View `[batch, length, dim]` as `[batch, heads, length, dim / heads]`, without a copy."""
    batch, length, dim = x.shape
    return x.view(batch, length, heads, dim // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Map `[batch, heads, length, head_dim]` to `[batch, length, heads * head_dim]`."""
    return x.transpose(1, 2).flatten(2)


def _linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself. Queries, keys and values come from one product."""

    watcher: Watcher | None = None  # set while the model is traced

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _linear(dim, 3 * dim, gain=math.sqrt(2 / 3))
        self.out = _linear(dim, dim)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Map `[batch, length, dim]` to the same shape. `mask` `[batch, 1, 1, length]` is True at visible keys."""
        query, key, value = (split_heads(part, self.heads) for part in linear(x, self.qkv).chunk(3, dim=-1))
        attended = attend(query, key, value, mask=mask, causal=causal, watcher=self.watcher)
        return linear(merge_heads(attended), self.out)


class CrossAttention(nn.Module):
    """Multi-head attention of decoder states to the encoder output."""

    watcher: Watcher | None = None  # set while the model is traced

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = _linear(dim, dim)
        self.key_value = _linear(dim, 2 * dim)
        self.out = _linear(dim, dim)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Compute keys and values of the encoder output, each `[batch, heads, source, head_dim]`, once per sentence."""
        key, value = (split_heads(part, self.heads) for part in linear(memory, self.key_value).chunk(2, dim=-1))
        return key, value

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Map `[batch, length, dim]` to the same shape, given keys and values `[batch, heads, source, head_dim]`."""
        query = split_heads(linear(x, self.query), self.heads)
        attended = attend(query, key, value, mask=mask, watcher=self.watcher)
        return linear(merge_heads(attended), self.out)


class FeedForward(nn.Module):
    """Two layers with an activation between them. SwiGLU (Shazeer 2020) has a gate, which doubles the inner width."""

    def __init__(self, dim: int, ffn_dim: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.inner = _linear(dim, 2 * ffn_dim if activation == "swiglu" else ffn_dim)
        self.out = _linear(ffn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., dim]` to `[..., dim]`."""
        if self.activation == "relu":
            return feed_forward(x, self.inner, self.out)
        hidden = linear(x, self.inner, narrow=True)
        if self.activation == "gelu":
            hidden = functional.gelu(hidden)
        elif self.activation == "swish":
            hidden = functional.silu(hidden)
        else:
            value, gate = hidden.chunk(2, dim=-1)
            hidden = value * functional.silu(gate)
        return linear(hidden, self.out)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a layer norm before (pre) or after (post) it."""

    def __init__(self, settings: StackSettings) -> None:
        super().__init__()
        dim, heads = settings.dim, settings.heads
        self.pre = settings.norm == "pre"
        self.attention = SelfAttention(dim, heads)
        self.attention_norm = layer_norm(settings)
        self.ffn = FeedForward(dim, settings.ffn_dim, settings.activation)
        self.ffn_norm = layer_norm(settings)
        self.dropout = Dropout(settings.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map `[batch, source, dim]` to the same shape. `mask` `[batch, 1, 1, source]` is True at real tokens."""
        if self.pre:
            x = self.dropout(self.attention(self.attention_norm(x), mask=mask), onto=x)
            return self.dropout(self.ffn(self.ffn_norm(x)), onto=x)  # type: ignore[no-any-return]
        x = self.attention_norm(self.dropout(self.attention(x, mask=mask), onto=x))
        return self.ffn_norm(self.dropout(self.ffn(x), onto=x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with a residual and a layer norm."""

    def __init__(self, settings: StackSettings) -> None:
        super().__init__()
        dim, heads = settings.dim, settings.heads
        self.pre = settings.norm == "pre"
        self.attention = SelfAttention(dim, heads)
        self.attention_norm = layer_norm(settings)
        self.cross = CrossAttention(dim, heads)
        self.cross_norm = layer_norm(settings)
        self.ffn = FeedForward(dim, settings.ffn_dim, settings.activation)
        self.ffn_norm = layer_norm(settings)
        self.dropout = Dropout(settings.dropout)

    def forward(self, x: Tensor, memory: Tensor, memory_mask: Tensor | None, own: Tensor | None = None) -> Tensor:
        """Map `[batch, target, dim]` to the same shape, given the encoder output `[batch, source, dim]`.

        A position attends to itself and the positions before it. With `own` `[batch, 1, 1, target]` it attends to all
        positions that are True there.
        """
        causal = own is None
        key, value = self.cross.keys_values(memory)
        if self.pre:
            x = self.dropout(self.attention(self.attention_norm(x), mask=own, causal=causal), onto=x)
            x = self.dropout(self.cross(self.cross_norm(x), key, value, memory_mask), onto=x)
            return self.dropout(self.ffn(self.ffn_norm(x)), onto=x)  # type: ignore[no-any-return]
        x = self.attention_norm(self.dropout(self.attention(x, mask=own, causal=causal), onto=x))
        x = self.cross_norm(self.dropout(self.cross(x, key, value, memory_mask), onto=x))
        return self.ffn_norm(self.dropout(self.ffn(x), onto=x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """The encoder-decoder Transformer.

    Args:
        settings: The settings of the model. Plain stack settings give the other options their defaults.
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.

    Attributes:
        start_id: The id that the decoder reads first.
        zero_start: Whether the decoder reads a vector of zeros in place of the embedding of `start_id`.
        scale: The factor of embeddings.
        output_bias: `[target_vocab]`, the bias of the output layer, or None.

    Raises:
        ValueError: The id with which the decoder starts is not an id of the target vocabulary.
    """

    pad_id, eos_id, unk_id = PAD_ID, EOS_ID, UNK_ID

    def __init__(self, settings: StackSettings, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.source_vocab, self.target_vocab = source_vocab, target_vocab
        self.dim, self.heads, self.max_positions = settings.dim, settings.heads, settings.max_positions
        self.norm = settings.norm
        options = settings if isinstance(settings, TransformerSettings) else TransformerSettings()
        self.start_id = options.start if isinstance(options.start, int) else EOS_ID
        if self.start_id >= target_vocab:
            raise ValueError(f"start is {self.start_id}, but there are {target_vocab} target pieces")
        self.zero_start = options.start == "zero"
        self.scale = math.sqrt(self.dim) if options.scale_embeddings else 1.0
        self.target_embedding, self.source_embedding, self.output_weight = embedding_tables(
            self.source_vocab, self.target_vocab, self.dim, settings.embeddings
        )
        self.output_bias = nn.Parameter(torch.zeros(target_vocab)) if options.output_bias else None
        self.source_positions = position_table(settings, self.max_positions)
        self.target_positions = position_table(settings, self.max_positions)
        self.source_embedding_norm, self.target_embedding_norm = (
            layer_norm(settings) if options.embedding_norm else nn.Identity() for _ in range(2)
        )
        self.encoder = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(settings) for _ in range(settings.decoder_layers))
        self.encoder_norm, self.decoder_norm = last_norm(settings), last_norm(settings)
        self.dropout = Dropout(settings.dropout)

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`."""
        return too_long(lengths, self.max_positions)

    def memory_mask(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids to `[batch, 1, 1, source]`, True at real tokens."""
        return source.ne(self.pad_id)[:, None, None, :]

    def embed_source(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids to embeddings `[batch, source, dim]`."""
        embedded = functional.embedding(source, self.source_embedding) * self.scale
        return self.source_embedding_norm(embedded + self.source_positions[: source.size(1)])  # type: ignore[no-any-return]

    def embed_target(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Map ids and their positions, both `[...]`, to embeddings `[..., dim]`."""
        x = functional.embedding(ids, self.target_embedding) * self.scale
        if self.zero_start:
            x = x.masked_fill(positions.eq(0)[..., None], 0.0)
        return self.target_embedding_norm(x + self.target_positions[positions].to(x.dtype))  # type: ignore[no-any-return]

    def encode(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids, with end of sentence and padded on the right, to `[batch, source, dim]`."""
        mask = self.memory_mask(source)
        x = self.dropout(self.embed_source(source))
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    def decode_features(self, target_in: Tensor, source: Tensor, memory: Tensor) -> Tensor:
        """Compute the inputs of the output layer under teacher forcing.

        Args:
            target_in: `[batch, target]` ids that start with `start_id`.
            source: `[batch, source]` ids, for their padding.
            memory: `[batch, source, dim]` from `encode`.

        Returns:
            `[batch, target, dim]`.
        """
        mask = self.memory_mask(source)
        x = functional.embedding(target_in, self.target_embedding) * self.scale
        if self.zero_start:
            x = functional.pad(x[:, 1:], (0, 0, 1, 0))
        x = self.dropout(self.target_embedding_norm(x + self.target_positions[: target_in.size(1)]))
        for layer in self.decoder:
            x = layer(x, memory, mask)
        return self.decoder_norm(x)  # type: ignore[no-any-return]

    def project(self, features: Tensor) -> Tensor:
        """Map `[..., dim]` to logits `[..., target_vocab]`."""
        return functional.linear(features, self.output_weight, self.output_bias)

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Map `[batch, source]` and `[batch, target]` ids to logits `[batch, target, target_vocab]`."""
        return self.project(self.decode_features(target_in, source, self.encode(source)))
