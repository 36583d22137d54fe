"""Encoded datasets: tokens and latents."""
