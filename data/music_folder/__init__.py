"""Dataset of a user's own folder of music."""
