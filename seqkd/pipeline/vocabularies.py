"""The vocabularies of the parts of a pipeline.

All text of a data set is encoded with the vocabulary of the data set. A model may have another one: one of
`[[vocabularies]]`, or its own if it is brought along and the file has `[prepare.vocabulary]`. Each corpus that such a
model learns from or is tested on is encoded again by a stage, which `expansion.py` adds.
"""

from __future__ import annotations

from collections.abc import Mapping

from seqkd.config.prepare import OWN_TEST
from seqkd.pipeline.file import PipelineConfig
from seqkd.pipeline.folders import OF, find_data
from seqkd.pipeline.graph import Graph, Key, Node

ENCODED, ENCODED_TEST = "encoded", "encoded_tests"  # the kinds of corpora and of test sets that are encoded again


def is_brought(node: Node) -> bool:
    """Whether a part is a teacher that is brought along."""
    if node.kind != "teachers":
        return False
    settings = node.settings
    return (settings.get("path") if isinstance(settings, Mapping) else settings.path) is not None


def find_vocabulary(graph: Graph, pipeline: PipelineConfig, node: Node) -> Key:
    """Find the part whose vocabulary a model has: one of [[vocabularies]], the teacher itself, or the data set."""
    for key in node.links.get("vocabulary", ()):
        return key
    if is_brought(node) and pipeline.learns_vocabulary:
        return node.key
    return find_data(graph, node).key


def find_original(graph: Graph, corpus: Node) -> Node:
    """Return the corpus that another one was encoded from, or the corpus itself."""
    return graph.follow(corpus, "corpus")[0] if corpus.kind in (ENCODED, ENCODED_TEST) else corpus


def encoded_key(graph: Graph, corpus: Node, vocabulary: Key, kind: str) -> Key:
    """Return the key of a corpus or a test set that is encoded again.

    Args:
        graph: The graph of the parts.
        corpus: The corpus or the test set. As a test set, a data set stands for its own test text.
        vocabulary: The part with the vocabulary.
        kind: `ENCODED` or `ENCODED_TEST`.
    """
    name = corpus.name
    if kind == ENCODED_TEST and corpus.kind == "data":
        name = OWN_TEST if len(graph.of_kind("data")) == 1 else f"{corpus.name}{OF}{OWN_TEST}"
    # A teacher may have the name of a vocabulary.
    return (kind, f"{name}{OF}{vocabulary[1]}" if vocabulary[0] == "vocabularies" else f"{name}{OF}{OF}{vocabulary[1]}")
