"""Measures of audio, tokens, retrieval and tags; each a pure function over arrays."""
