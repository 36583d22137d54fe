"""One module per question that `python -m melody_jax.evaluate` answers about a bundle."""
