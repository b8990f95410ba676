"""Stand-ins for other libraries' Python packages, over Nearstone.

Each module here takes the names and signatures of one package, so that a program moves by changing an import:

- `nearstone.compat.hnswlib`: ``Index`` and ``BFIndex`` of hnswlib 0.8.

Nothing here is imported by `nearstone` itself.
"""
