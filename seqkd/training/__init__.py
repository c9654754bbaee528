"""The training loop, optimisers, schedules and resuming."""
