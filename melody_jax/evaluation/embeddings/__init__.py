"""Embeddings of audio by which sets of clips are compared, each behind one adapter."""
