"""Datasets of tokens and latents, made by the trained models."""
