"""Builders of training data; run as commands, read back by directory."""
