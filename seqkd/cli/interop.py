"""`seqkd import` and `seqkd export`: models and corpora, with one command for each registered format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperGroup

from seqkd.cli.options import Debug, Out, Overwrite, check_rereadable
from seqkd.cli.stages import OverwriteChanged, run_stage
from seqkd.extensions import settings_class
from seqkd.interop.formats import FORMATS, Format
from seqkd.stages.registry import STAGES

Command = Callable[..., None]


def _group(command_of: Callable[[Format], Command | None]) -> type[TyperGroup]:
    """Build a group of commands that are looked up in the registry, so that only the chosen extension is imported.

    Args:
        command_of: Returns the function behind a format's command, or None if the format has no such command.
    """

    class Formats(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
            return FORMATS.names()

        def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
            record = FORMATS.find(cmd_name)
            command = None if record is None else command_of(record)
            if record is None or command is None:
                return None
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(cmd_name, help=f"{record.help}.")(command)
            return typer.main.get_command(app)

    return Formats


def _import(record: Format) -> Command | None:
    if record.read is None:
        return None

    def command(path: Path, out: Path, overwrite: bool, debug: bool, **options: Any) -> None:  # noqa: ARG001
        from seqkd.config.tables import read_options
        from seqkd.stages.interop import import_model

        import_model(record, path, out, read_options(record.settings, options), overwrite=overwrite)

    path = Annotated[Path, typer.Argument(help="File or folder of the model.", callback=check_rereadable)]
    return _add_parameters(command, {"path": path, **_options(record.settings), **_COMMON})


def _export(record: Format) -> Command | None:
    if record.write is None:
        return None

    def command(path: Path, out: Path, overwrite: bool, debug: bool, **options: Any) -> None:  # noqa: ARG001
        from seqkd.config.tables import read_options
        from seqkd.stages.interop import export_folder

        export_folder(record, path, out, read_options(record.export_settings, options), overwrite=overwrite)

    path = Annotated[Path, typer.Argument(help=f"Folder of a {record.exports}.")]
    return _add_parameters(command, {"path": path, **_options(record.export_settings), **_COMMON})


_COMMON = {"out": Out, "overwrite": Overwrite, "debug": Debug}
_DEFAULTS = {"overwrite": False, "debug": False}


def _options(settings: str) -> dict[str, Any]:
    """Return an option of the command line for each setting. A setting that can be left out is None by default."""
    kind = settings_class(settings)
    hints, found = get_type_hints(kind, include_extras=True), {}
    for setting in fields(kind):
        hint = hints[setting.name]
        base, marks = (hint.__origin__, hint.__metadata__) if hasattr(hint, "__metadata__") else (hint, ())
        text = next((mark.description for mark in marks if getattr(mark, "description", None)), "")
        check = check_rereadable if Path in (base, *get_args(base)) else None
        option = typer.Option(help=f"{text[:1].upper()}{text[1:]}." if text else None, callback=check)
        optional = setting.default is not MISSING and None not in (base, *get_args(base))
        found[setting.name] = Annotated[base | None if optional else base, option]
    return found


def _add_parameters(command: Command, parameters: dict[str, Any]) -> Command:
    """Give a function the parameters from which typer makes the command line."""

    def default(name: str, hint: Any) -> Any:
        optional = type(None) in get_args(hint.__origin__)
        return _DEFAULTS.get(name, None if optional else Parameter.empty)

    command.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=hint, default=default(name, hint))
            for name, hint in parameters.items()
        ]
    )
    command.__annotations__ = dict(parameters)
    return command


imports = typer.Typer(
    help="Import a model of another toolkit as a model folder.", no_args_is_help=True, cls=_group(_import)
)
exports = typer.Typer(help="Export a model or a corpus for another toolkit.", no_args_is_help=True, cls=_group(_export))


def _stage_command(name: str) -> Callable[..., None]:
    """Build the function of a group that is called without a format: a stage of a pipeline, with a stage file."""

    def command(
        context: typer.Context,
        config: Annotated[Path | None, typer.Option(help="Stage file (TOML), in place of a format.")] = None,
        out: Annotated[Path | None, typer.Option(help="Output folder, with --config.")] = None,
        overwrite: Overwrite = False,
        overwrite_changed: OverwriteChanged = False,
        device: Annotated[str, typer.Option(hidden=True)] = "auto",  # Make gives it to every stage
        debug: Debug = False,  # noqa: ARG001
    ) -> None:
        given = config is not None or out is not None or overwrite or overwrite_changed
        if context.invoked_subcommand is not None:
            if given:
                raise typer.BadParameter(f"options of {context.invoked_subcommand} follow its name")
        elif config is None or out is None:
            raise typer.BadParameter("give a format, or both --config and --out")
        else:
            run_stage(
                STAGES[name], config, out, overwrite=overwrite, overwrite_changed=overwrite_changed, device=device
            )

    return command


imports.callback(invoke_without_command=True)(_stage_command("import"))
exports.callback(invoke_without_command=True)(_stage_command("export"))
