"""
Benchmarks of this library next to bare ASGI and its peers, in one run.

`python -m benchmarks --help` lists the benchmarks. A server, its clients and a publisher are
separate processes, the same ones for every contender; the process of the suite only reads their
numbers.
"""
