"""Where things lie: paths that users write, config pages, builders and checkpoints."""
