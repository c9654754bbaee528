"""From k-best lists to targets."""

from seqkd.selection.choosing import DROPPED, GOLD, Choice, choose, keep, weigh
from seqkd.selection.filters import Filters
from seqkd.selection.lists import Lists
from seqkd.selection.rules import RULES, Means, Rule

__all__ = ["DROPPED", "GOLD", "RULES", "Choice", "Filters", "Lists", "Means", "Rule", "choose", "keep", "weigh"]
