"""
What this library costs beside bare ASGI and beside its peers, in one run.

`python -m benchmarks --help` lists what can be measured. Nothing is measured in
the process that says so: a server, its clients and a publisher are processes of
their own, and every contender goes through the same ones.
"""
