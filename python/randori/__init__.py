"""The program `randori`, installed by pip. `python -m randori` runs it; there is no Python API."""
