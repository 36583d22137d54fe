"""The audio of any system, in a directory, measured against real music in another."""
