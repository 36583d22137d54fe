"""The sampler as one file: `writer` makes it here, `loader` reads it without this package."""
