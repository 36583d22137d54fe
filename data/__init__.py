"""Builders of training data. They run as commands; training reads their output by directory."""

# Imported before all else: it sees to it that librosa finds a folder for its cache.
import melody_jax  # noqa: F401
