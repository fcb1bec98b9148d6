"""Kernels in C with thin bindings: bulk tag cryptography, the tag index and the portal's read pipeline.

Nothing here knows of any other package of the repository.
"""
