"""From k-best lists to one target a source."""

from seqkd.selection.choosing import DROPPED, GOLD, Choice, choose
from seqkd.selection.filters import Filters
from seqkd.selection.lists import Lists
from seqkd.selection.rules import RULES, Means, Rule

__all__ = ["DROPPED", "GOLD", "RULES", "Choice", "Filters", "Lists", "Means", "Rule", "choose"]
