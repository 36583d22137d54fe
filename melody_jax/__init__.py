"""MeLoDy in JAX/Flax: text or music in, 24 kHz music out (arXiv 2305.15719)."""

__version__ = "0.1.0"
