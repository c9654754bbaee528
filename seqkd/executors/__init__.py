"""Executors of work on shards: processes of this machine, or the nodes of a Ray cluster.

Each executor is one function, `run_shards`, which takes the work and yields the finished shards.
"""
