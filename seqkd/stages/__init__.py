"""One file a stage; here configuration becomes objects."""
