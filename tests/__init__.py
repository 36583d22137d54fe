"""Tests, laid out like melody_jax."""
