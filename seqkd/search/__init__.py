"""Batched beam search: the core."""

from seqkd.search.beam import BeamSearch
from seqkd.search.protocol import FusedSearchModel, SearchModel
from seqkd.search.scoring import PairScore, score_pairs
from seqkd.search.settings import BeamSettings, Hypothesis

__all__ = [
    "BeamSearch",
    "BeamSettings",
    "FusedSearchModel",
    "Hypothesis",
    "PairScore",
    "SearchModel",
    "score_pairs",
]
