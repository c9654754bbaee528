"""The kinds of record that files and commands can name, with the records of seqkd and of installed packages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqkd.errors import ExtensionError
from seqkd.extensions import NO_SETTINGS, OWN, Record, Registry, display_name
from seqkd.interop.formats import FORMATS
from seqkd.interop.sources import SOURCES
from seqkd.metrics.registry import METRICS
from seqkd.models.registry import ARCHITECTURES
from seqkd.objectives.registry import OBJECTIVES
from seqkd.pipeline.parts import PARTS
from seqkd.selection.registry import DEFAULT_SCORER, FILTERS, RULES, SCORERS
from seqkd.stages.registry import STAGES
from seqkd.text.vocabularies import VOCABULARIES
from seqkd.tools.inspect import make_console
from seqkd.training.hooks import HOOKS
from seqkd.training.task import TASKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A record in a list.

    Attributes:
        name: The name, as in messages.
        help: One line about the record.
        package: The package that registers it.
        settings: `module:attribute` of the settings.
        export_settings: `module:attribute` of the settings of an export, for a format of models.
    """

    name: str
    help: str
    package: str = OWN
    settings: str = NO_SETTINGS
    export_settings: str = NO_SETTINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of record.

    Attributes:
        title: The heading of the list.
        place: Sentences that say where its records are named.
        own: seqkd's own records.
        registry: The registry of the records; None if packages outside seqkd cannot add any.
    """

    title: str
    place: str
    own: tuple[Entry, ...]
    registry: Registry[Any] | None = None

    def load_added(self) -> tuple[list[Entry], list[ExtensionError]]:
        """Import the records of other packages.

        Returns:
            The records, and an error for each entry point that cannot be used. If two packages register the same name,
            only that error is returned.
        """
        if self.registry is None:
            return [], []
        try:
            others = [record for record in self.registry.all() if record.name not in self.registry.own]
            return [
                _make_entry(record, self.registry.package(record.name)) for record in others
            ], self.registry.broken()
        except ExtensionError as error:
            return [], [error]


def make_registry_kind(registry: Registry[Any], *, title: str, place: str) -> Kind:
    """Make the kind of the records of a registry."""
    own = tuple(_make_entry(record, OWN) for record in registry.own.values())
    return Kind(title=title, place=place, own=own, registry=registry)


def _make_entry(record: Record, package: str) -> Entry:
    settings = getattr(record, "settings", NO_SETTINGS)  # metrics and tasks have no settings
    exported = getattr(record, "export_settings", NO_SETTINGS)
    name = display_name(record.name)
    return Entry(name=name, help=record.help, package=package, settings=settings, export_settings=exported)


def _make_fixed_kind(helps: Mapping[str, str], *, title: str, place: str) -> Kind:
    return Kind(title=title, place=place, own=tuple(Entry(name=name, help=text) for name, text in helps.items()))


KINDS: tuple[Kind, ...] = (
    _make_fixed_kind(
        {part.title: part.help for part in PARTS.values()},
        title="Parts of a pipeline",
        place="A part is a table of the pipeline file.",
    ),
    make_registry_kind(
        ARCHITECTURES,
        title="Architectures",
        place="The table `model` of a teacher or a student names an architecture by `arch`, and holds its settings.",
    ),
    make_registry_kind(
        OBJECTIVES,
        title="Objectives",
        place="The table `objective` of a teacher or a student, or each table of its list `terms`, names an objective "
        "by `type`, and holds its settings.",
    ),
    make_registry_kind(
        HOOKS,
        title="Hooks",
        place="Each `[[students.hooks]]` names a hook of the training loop by `type`, and holds its settings.",
    ),
    make_registry_kind(
        SOURCES,
        title="Sources of k-best lists",
        place="The table `source` of a `[[distill]]` names a source by `type`, and holds its settings. Models of seqkd "
        "are named by `teacher` instead; the `[[distill]]` itself then holds `search`, `batch_tokens` and `precision`, "
        "each with a default.",
    ),
    make_registry_kind(
        RULES,
        title="Rules",
        place="A `[[select]]` names a rule by `rule`. The same table holds the settings of the rule.",
    ),
    make_registry_kind(
        FILTERS,
        title="Filters",
        place="The table `filters` of a `[[select]]` has a key for each filter. If the only setting of a filter has "
        "its name, the key holds the value of the setting; otherwise the key holds a table. A filter whose setting is "
        "required is off if its key is missing.",
    ),
    make_registry_kind(
        SCORERS,
        title="Scorers",
        place=f"The table `scorer` of a `[[select]]` names a scorer by `type`, by default `{DEFAULT_SCORER}`, and "
        "holds its settings. The rules `score` and `mbr-score` choose by the scorer. `rerank` is the earlier name "
        "of the table and of the rule `score`.",
    ),
    make_registry_kind(
        METRICS,
        title="Metrics",
        place="`seqkd evaluate` computes seqkd's own metrics, or those that `metrics` of `[evaluate]` lists."
        " `best_by` of the table `training` names the metric that chooses a checkpoint: `nll`, or a metric of "
        "outputs that needs no accepted translations.",
    ),
    make_registry_kind(
        FORMATS,
        title="Formats",
        place="The commands `seqkd import` and `seqkd export` name a format. Its settings are options of the import, "
        "and the settings of an export are options of the export.",
    ),
    _make_fixed_kind(
        {stage.name: stage.help for stage in STAGES.values()},
        title="Stages",
        place="A stage makes one output folder from one stage file: `seqkd COMMAND --config STAGE.toml --out DIR`.",
    ),
    _make_fixed_kind(
        {name: kind.help for name, kind in VOCABULARIES.items()},
        title="Vocabularies",
        place="The files in the folder of a prepared corpus or a model tell the kind of its vocabulary.",
    ),
    _make_fixed_kind(
        {task.name: task.help for task in TASKS.values()},
        title="Tasks",
        place="A task says what a row of a corpus is, and how a model is measured.",
    ),
)


def show_kinds(kinds: Iterable[Kind] = KINDS, *, console: Console | None = None) -> None:
    """Print all records of each kind, and an error for each entry point that cannot be used.

    Args:
        kinds: The kinds.
        console: Where to print; stdout if None.
    """
    console = console or make_console()
    for kind in kinds:
        added, broken = kind.load_added()
        table = Table("name", "description", "package", title=kind.title, title_justify="left")
        for entry in (*kind.own, *added):
            table.add_row(Text(entry.name), Text(entry.help), Text(entry.package))
        if table.row_count:
            console.print(table)
        elif not broken:
            console.print(Text.assemble((kind.title, "italic"), ": none is installed"))
        for error in broken:
            console.print(Text.assemble((f"{kind.title}: ", "italic"), str(error)))
