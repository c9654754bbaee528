"""Batched beam search and scoring."""

from seqkd.search.beam import BeamSearch
from seqkd.search.protocol import FusedSearchModel, SearchModel, SteppingModel
from seqkd.search.scoring import PairScore, score_pairs
from seqkd.search.settings import BeamSettings, Hypothesis

__all__ = [
    "BeamSearch",
    "BeamSettings",
    "FusedSearchModel",
    "Hypothesis",
    "PairScore",
    "SearchModel",
    "SteppingModel",
    "score_pairs",
]
