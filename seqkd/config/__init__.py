"""Stage files: their schema, and the only reader of TOML."""
