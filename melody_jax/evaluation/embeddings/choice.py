"""Which embeddings a comparison uses, by the words of config.audio.embeddings."""

from melody_jax.config import listed
from melody_jax.errors import UserError, check_choice
from melody_jax.evaluation.embeddings.adapter import AudioEmbedding
from melody_jax.evaluation.embeddings.clap import ClapEmbedding
from melody_jax.evaluation.embeddings.mulan import MulanEmbedding
from melody_jax.evaluation.embeddings.tagger import TaggerEmbedding
from melody_jax.evaluation.embeddings.vggish import VggishEmbedding

# Word -> whether it names a file of the user's.
CHOICES = {"musicnn": False, "musicnn_mtt": False, "mulan": False, "vggish": True, "clap": True}


def load(words: str, bundle: str) -> list[AudioEmbedding]:
  """Loads embeddings.

  Args:
    words: Comma-separated: "musicnn" (by the Million Song Dataset), "musicnn_mtt" (by
      MagnaTagATune), "mulan", "vggish=FILE", "clap=FILE".
    bundle: Directory whose MuLan is meant.

  Raises:
    UserError: if there is no such word, a file is not named, or the adapter finds something wrong.
  """
  chosen: dict[str, str] = {}
  for item in listed(words):
    word, _, path = item.partition("=")
    check_choice("config.audio.embeddings", word, CHOICES)
    if CHOICES[word] and not path:
      raise UserError(f"config.audio.embeddings: {word} needs its weights: {word}=FILE")
    if path and not CHOICES[word]:
      raise UserError(f"config.audio.embeddings: {word} takes no file")
    if word in chosen:
      raise UserError(f"config.audio.embeddings names {word} twice")
    chosen[word] = path
  if not chosen:
    raise UserError(f"config.audio.embeddings is empty: name some of {', '.join(CHOICES)}")
  return [_load_one(word, path, bundle) for word, path in chosen.items()]


def _load_one(word: str, path: str, bundle: str) -> AudioEmbedding:
  if word == "mulan":
    return MulanEmbedding(bundle)
  if word == "vggish":
    return VggishEmbedding(path)
  if word == "clap":
    return ClapEmbedding(path)
  return TaggerEmbedding.load("MTT" if word == "musicnn_mtt" else "MSD")
