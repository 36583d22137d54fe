"""Dataset of music rendered from grooves and MIDI files. Its captions are exactly true."""
