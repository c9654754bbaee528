"""`seqkd import --config` and `seqkd export --config`: models of other toolkits as stages of a pipeline.

The function of the format makes the output folder and its manifest. The fingerprint holds the digest of the model, the
format and its settings, so the folder is the same as one that the command of the format makes.
"""

from __future__ import annotations

from pathlib import Path

from seqkd.config.formats import ExportConfig, ImportConfig
from seqkd.extensions import NO_SETTINGS, resolve
from seqkd.interop.formats import Format, check_exported, check_format
from seqkd.progress import say


def run_import(config: ImportConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Make a model folder of a model of another toolkit.

    Args:
        config: The settings of the stage.
        out: The output folder, a model folder.
        overwrite: Whether to start anew if the folder exists.
        device: Not used.

    Raises:
        ModelError: The model is missing, damaged, of another format, or of a kind that seqkd does not have.
        ConflictError: `out` was made from other files or with other settings.
        WorkError: The files cannot be written.
    """
    import_model(config.format.record, config.path, Path(out), config.format.settings, overwrite=overwrite)


def import_model(record: Format, path: Path, out: Path, settings: object, *, overwrite: bool) -> None:
    """Import a model with settings of its format, and print the notes of the import; see `run_import`."""
    check_format(record, path)
    report = resolve(str(record.read))(path, out, settings, overwrite=overwrite)
    for note in report.notes:
        say(f"import: {note}")
    say(f"import: {report.parameters:,} parameters; {out}")


def run_export(config: ExportConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Write a model in the format of another toolkit.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if the folder exists.
        device: Not used.

    Raises:
        ModelError: The model is missing or damaged, or the format cannot hold it.
        ConflictError: `out` was made from another model or with other settings.
        WorkError: The files cannot be written.
    """
    export_folder(config.format.record, config.model, Path(out), config.format.settings, overwrite=overwrite)


def export_folder(record: Format, path: Path, out: Path, settings: object, *, overwrite: bool) -> None:
    """Export a folder with settings of the format; see `run_export`."""
    check_exported(record, path)
    given = () if record.export_settings == NO_SETTINGS else (settings,)
    resolve(str(record.write))(path, out, *given, overwrite=overwrite)
    say(f"export: {out}")
