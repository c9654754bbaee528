"""The command line: typer commands that parse, call one stage or tool, and print."""
