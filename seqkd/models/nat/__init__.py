"""Non-autoregressive models, which write all target positions at once."""
