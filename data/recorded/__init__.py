"""Recordings from Debian packages."""
