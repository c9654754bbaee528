"""Rules, filters and scorers by name, by which targets are chosen from k-best lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seqkd.extensions import NO_SETTINGS, Registry

Read = Literal["scores", "references", "bleu", "scorer", "language"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A way to choose one hypothesis of each list.

    Attributes:
        name: The name that files use.
        help: A description in one line.
        settings: `module:attribute` of the rule's own settings, a frozen dataclass. In files they stand beside the
            settings that all rules share.
        values: `module:attribute` of a function that takes `Lists` and `Means` and returns a value for each hypothesis
            `[hypotheses]`. The highest value of a list is chosen. The values of a list must depend on that list alone.
            None for a rule that keeps every hypothesis, weighted by its score.
        rivals: `module:attribute` of a function that takes `Lists` and `Means` and returns the `Rivals` by which a
            second hypothesis of each list is chosen. The corpus then has the columns `rival`, `rival_ids` and
            `rival_margin`. None for a rule that chooses targets alone.
        reads: The data that the values depend on besides ids and texts: the teacher's scores, the references, sentence
            BLEU as configured, or a scorer, which the file then names.
        slow: Whether even a small corpus is worth several processes.
    """

    name: str
    help: str
    settings: str = NO_SETTINGS
    values: str | None
    rivals: str | None = None
    reads: frozenset[Read] = frozenset()
    slow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A reason to reject a hypothesis.

    Attributes:
        name: Its key in the table `filters`. If the settings are one field of the same name, the key holds that
            field's value; otherwise it holds a table.
        help: A description in one line.
        reason: The reason in `rejected.tsv` and in manifests.
        settings: `module:attribute` of its settings, a frozen dataclass. The filter is off if its key is missing or
            false; a default is the value of a missing key.
        rejects: `module:attribute` of a function that takes `Lists`, places of hypotheses `[which]` and the settings,
            and returns True for each hypothesis to reject `[which]`. None for a filter of the whole corpus, which the
            stage itself applies.
        reads: The data that it reads besides the hypotheses and their sources.
        slow: Whether it is applied only to hypotheses that would be chosen.
        off: A value of the key with which the filter rejects nothing.
        identity: `module:attribute` of a function from the settings to the values on which results depend. Fingerprints
            contain them in place of the settings. "" if results depend on all settings.
    """

    name: str
    help: str
    reason: str
    settings: str
    rejects: str | None
    reads: frozenset[Read] = frozenset()
    slow: bool = False
    off: float | None = None
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A scorer of hypotheses that uses other means than the teacher's scores and the references.

    Attributes:
        name: The name that files use.
        help: A description in one line.
        settings: `module:attribute` of its settings, a frozen dataclass.
        build: `module:attribute` of a callable that takes the settings and a device, and returns a function from
            `Lists` to values `[hypotheses]`.
        folders: Names of the settings that are model folders. Fingerprints contain their digests instead.
        identity: `module:attribute` of a function from the settings to the values on which results depend. Fingerprints
            contain them in place of the settings. "" if results depend on all settings.
    """

    name: str
    help: str
    settings: str
    build: str
    folders: tuple[str, ...] = ()
    identity: str = ""


_SCORES: frozenset[Read] = frozenset({"scores"})
_REFERENCES: frozenset[Read] = frozenset({"references"})
_SCORES_AND_BLEU: frozenset[Read] = frozenset({"scores", "references", "bleu"})

RULES = Registry(
    "rule",
    Rule,
    group="seqkd.rules",
    own={
        "seqkd": Rule(
            name="seqkd",
            help="The best hypothesis: sequence-level distillation (Kim and Rush 2016, section 3.2)",
            values="seqkd.selection.rules:score_by_seqkd",
        ),
        "seqinter": Rule(
            name="seqinter",
            help="The highest sentence BLEU to the reference: sequence-level interpolation (Kim and Rush 2016, 3.3)",
            values="seqkd.selection.rules:score_by_seqinter",
            reads=frozenset({"references", "bleu"}),
        ),
        "oracle": Rule(
            name="oracle",
            help="The same as seqinter, for lists so long that the choice is an oracle",
            values="seqkd.selection.rules:score_by_seqinter",
            reads=frozenset({"references", "bleu"}),
        ),
        "chrf": Rule(
            name="chrf",
            help="The highest chrF to the reference",
            values="seqkd.selection.rules:score_by_chrf",
            reads=_REFERENCES,
            slow=True,
        ),
        "ter": Rule(
            name="ter",
            help="The fewest edits to the reference",
            values="seqkd.selection.rules:score_by_ter",
            reads=_REFERENCES,
            slow=True,
        ),
        "sample": Rule(
            name="sample",
            help="One hypothesis drawn from the teacher's distribution over the list",
            values="seqkd.selection.rules:score_by_sample",
            reads=_SCORES,
        ),
        "mbr-bleu": Rule(
            name="mbr-bleu",
            help="The highest expected sentence BLEU to the list: minimum Bayes risk (Kumar and Byrne 2004)",
            values="seqkd.selection.rules:score_by_mbr_bleu",
            reads=frozenset({"scores", "bleu"}),
            slow=True,
        ),
        "mbr-chrf": Rule(
            name="mbr-chrf",
            help="The highest expected chrF to the list: minimum Bayes risk",
            values="seqkd.selection.rules:score_by_mbr_chrf",
            reads=_SCORES,
            slow=True,
        ),
        "score": Rule(
            name="score",
            help="The highest value by the scorer that the table `scorer` describes",
            values="seqkd.selection.rules:score_by_scorer",
            reads=frozenset({"scorer"}),
            slow=True,
        ),
        "mbr-score": Rule(
            name="mbr-score",
            help="The highest expected value by a scorer that compares with references, here the list: minimum Bayes "
            "risk (Freitag et al. 2022)",
            values="seqkd.selection.rules:score_by_mbr_score",
            reads=frozenset({"scores", "scorer"}),
            slow=True,
        ),
        "rerank": Rule(
            name="rerank",
            help="The earlier name of score",
            values="seqkd.selection.rules:score_by_scorer",
            reads=frozenset({"scorer"}),
            slow=True,
        ),
        "hope": Rule(
            name="hope",
            help="The highest score plus weighted sentence BLEU to the reference (Chiang 2012)",
            settings="seqkd.selection.settings:HopeSettings",
            values="seqkd.selection.hope:score_by_hope",
            reads=_SCORES_AND_BLEU,
        ),
        "fear": Rule(
            name="fear",
            help="The highest score minus weighted sentence BLEU to the reference, as a control (Chiang 2012)",
            settings="seqkd.selection.settings:FearSettings",
            values="seqkd.selection.hope:score_by_fear",
            reads=_SCORES_AND_BLEU,
        ),
        "pair": Rule(
            name="pair",
            help="The hope as the target and the fear as its rival, for the objective margin",
            settings="seqkd.selection.settings:HopeSettings",
            values="seqkd.selection.hope:score_by_hope",
            rivals="seqkd.selection.hope:choose_fear",
            reads=_SCORES_AND_BLEU,
        ),
        "all": Rule(
            name="all",
            help="Every hypothesis that no filter rejects, each row with the weight of its hypothesis",
            values=None,
            reads=_SCORES,
        ),
    },
)

FILTERS = Registry(
    "filter",
    Filter,
    group="seqkd.filters",
    own={
        "max_ratio": Filter(
            name="max_ratio",
            help="The longer side has too many subwords for the shorter side",
            reason="length ratio",
            settings="seqkd.selection.filters:MaxRatio",
            rejects="seqkd.selection.filters:reject_by_ratio",
        ),
        "unknown": Filter(
            name="unknown",
            help="The hypothesis contains the unknown piece",
            reason="unknown piece",
            settings="seqkd.selection.filters:Unknown",
            rejects="seqkd.selection.filters:reject_by_unknown",
        ),
        "copies": Filter(
            name="copies",
            help="The target equals its source",
            reason="copy of the source",
            settings="seqkd.selection.filters:Copies",
            rejects="seqkd.selection.filters:reject_by_copying",
        ),
        "cut": Filter(
            name="cut",
            help="The hypothesis ended at the longest allowed length",
            reason="cut at the longest length",
            settings="seqkd.selection.filters:Cut",
            rejects="seqkd.selection.filters:reject_by_cut",
        ),
        "max_repeats": Filter(
            name="max_repeats",
            help="The same 1 to 8 subwords occur too often in a row",
            reason="repeats itself",
            settings="seqkd.selection.filters:MaxRepeats",
            rejects="seqkd.selection.filters:reject_by_repeats",
        ),
        "min_score": Filter(
            name="min_score",
            help="The score of the search is too low",
            reason="low score",
            settings="seqkd.selection.filters:MinScore",
            rejects="seqkd.selection.filters:reject_by_score",
            reads=_SCORES,
        ),
        "worst_percent": Filter(
            name="worst_percent",
            help="The score is below a percentile of the best hypotheses' scores",
            reason="low score",
            settings="seqkd.selection.filters:WorstPercent",
            rejects=None,
            reads=_SCORES,
            off=0.0,
        ),
        "script": Filter(
            name="script",
            help="Half of the letters or more belong to other Unicode scripts",
            reason="wrong script",
            settings="seqkd.selection.filters:Script",
            rejects="seqkd.selection.filters:reject_by_script",
        ),
        "language": Filter(
            name="language",
            help="The hypothesis is surely not in the data set's `target_language` (extra langid)",
            reason="another language",
            settings="seqkd.selection.filters:Language",
            rejects="seqkd.selection.filters:reject_by_language",
            reads=frozenset({"language"}),
            slow=True,
        ),
        "max_ter": Filter(
            name="max_ter",
            help="The translation edit rate to the reference is too high",
            reason="far from the reference",
            settings="seqkd.selection.filters:MaxTer",
            rejects="seqkd.selection.filters:reject_by_ter",
            reads=_REFERENCES,
            slow=True,
        ),
        "worker": Filter(
            name="worker",
            help="An external worker, a command or an endpoint, does not keep the pair",
            reason="rejected by the worker",
            settings="seqkd.interop.workers:FilterSettings",
            rejects="seqkd.interop.asking.roles:reject_by_worker",
            slow=True,
            identity="seqkd.interop.workers:identify",
        ),
        "duplicates": Filter(
            name="duplicates",
            help="An earlier row has the same pair; such rows are dropped",
            reason="duplicate pair",
            settings="seqkd.selection.filters:Duplicates",
            rejects=None,
        ),
    },
)

SCORERS = Registry(
    "scorer",
    Scorer,
    group="seqkd.scorers",
    own={
        "models": Scorer(
            name="models",
            help="Forced decoding with one or two models: a noisy channel without a language model (Yee et al. 2019)",
            settings="seqkd.selection.settings:ModelScorerSettings",
            build="seqkd.selection.rerank:build",
            folders=("forward", "reverse"),
        ),
        "worker": Scorer(
            name="worker",
            help="An external worker: a command or an endpoint that scores hypotheses",
            settings="seqkd.interop.workers:ScorerSettings",
            build="seqkd.interop.asking.roles:build_scorer",
            identity="seqkd.interop.workers:identify",
        ),
    },
)
DEFAULT_SCORER = "models"
