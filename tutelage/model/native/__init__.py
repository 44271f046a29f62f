"""Decoding on CPUs in C++: the source, its compilation at first use, and the decoder that calls it.

Import from the modules: this package imports nothing.
"""
