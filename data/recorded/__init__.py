"""Dataset of recordings from Debian packages."""
