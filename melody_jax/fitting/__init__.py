"""Constants fitted on a corpus and added to a model's file: one page a fit."""
