"""Style tokens of captions among those of audio, so that an LM learns both alike.

MuLan brings a caption near its music, not onto it: a text's style tokens are never those of a
clip. An LM that trained on clips' tokens alone hears a prompt only as far as the two agree.
"""

from collections.abc import Callable, Sequence
import hashlib

import numpy as np


def caption_styles(
  tokens: Sequence[np.ndarray],
  captions: Sequence[Sequence[str]],
  keys: Sequence[str],
  share: float,
  of_texts: Callable[[list[str]], np.ndarray],
) -> list[np.ndarray]:
  """Puts the tokens of captions in place of some windows' own.

  Args:
    tokens: Style tokens of each clip's windows, int [windows, levels].
    captions: Captions of each clip; a clip without any keeps its own tokens.
    keys: Name of each clip, which decides what is drawn: a second run draws the same.
    share: Chance of a window to be replaced, from 0 to 1.
    of_texts: Function from n texts to int [n, levels].

  Returns:
    Tokens of the same shapes.
  """
  out = [np.array(rows) for rows in tokens]
  places, texts = [], []
  for i, (rows, said, key) in enumerate(zip(out, captions, keys, strict=True)):
    rng = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()[:16]))
    for window in range(len(rows)):
      chosen, which = rng.random() < share, rng.random()
      if chosen and said:
        places.append((i, window))
        texts.append(said[int(which * len(said))])
  if texts:
    for (i, window), row in zip(places, of_texts(texts), strict=True):
      out[i][window] = row
  return out
