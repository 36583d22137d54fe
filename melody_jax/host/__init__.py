"""What the machine around the program decides: folders for caches, decoders of audio."""
