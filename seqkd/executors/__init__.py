"""Where work on shards is done: processes of this machine, or the nodes of a Ray cluster.

Both engines are one function, `run_shards`: it takes what is to be done to shards and gives the finished ones.
"""
