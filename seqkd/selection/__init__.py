"""From k-best lists to one target a source."""

from seqkd.selection.rules import RULES, Candidate, Rule

__all__ = ["RULES", "Candidate", "Rule"]
