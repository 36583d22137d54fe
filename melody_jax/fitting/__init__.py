"""Fits of constants on a corpus (centres, scales, a linear map). Each adds them to a model file."""
