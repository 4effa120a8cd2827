"""Checkpoints by name: the registry, downloads, the nano family."""
