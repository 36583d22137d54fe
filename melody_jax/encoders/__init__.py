"""The trained models as functions over waveforms: one wrapper a model, used everywhere."""
