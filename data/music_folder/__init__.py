"""A user's own folder of music."""
