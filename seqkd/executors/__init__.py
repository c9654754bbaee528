"""Where work on shards is done: processes of this machine, or the nodes of a Ray cluster.

Each executor is one function, `run_shards`, which takes the work on shards and yields the finished ones.
"""
