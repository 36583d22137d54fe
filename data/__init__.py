"""Builders of training data. They run as commands; training reads their output by directory."""
