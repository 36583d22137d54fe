"""Music rendered from accompaniment grooves and MIDI files, with captions that are exactly true."""
