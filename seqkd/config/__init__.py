"""The schema of stage files, and the only reader of TOML."""
