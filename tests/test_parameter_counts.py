"""Sizes of the paper presets against the published figures, from shapes alone."""

import math

from flax import linen as nn
import jax
import pytest

from melody_jax.task import make_task
from tests.configs import load_config

# docs/spec.md, section 2: millions of parameters and the tolerated relative difference.
PUBLISHED = {
  "mulan": (195.3, 0.02),
  "wav2vec": (199.5, 0.02),
  "lm": (429.5, 0.02),
  "dpd": (296.6, 0.02),
}
# docs/spec.md, section 7.1: of the VAE-GAN, whose discriminators are not counted.
CODEC = {"encoder": 40.0, "decoder": 60.1}


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_size(name, record_property):
  task = make_task(load_config(name, "paper"))
  shapes = nn.meta.unbox(jax.eval_shape(task.init, jax.random.key(0)))
  millions = sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6
  published, tolerance = PUBLISHED[name]
  print(f"{name}: {millions:.1f} M, published {published} M ({millions / published - 1:+.2%})")
  record_property("millions", millions)
  assert millions == pytest.approx(published, rel=tolerance)


def test_paper_size_of_the_codec(record_property):
  """Encoder and decoder each; discriminators must not make up for what they lack."""
  task = make_task(load_config("vae", "paper"))
  shapes = nn.meta.unbox(jax.eval_shape(task.init, jax.random.key(0)))
  assert set(shapes) == {"generator", "discriminator"} and set(shapes["generator"]) == set(CODEC)
  for part, published in CODEC.items():
    millions = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["generator"][part])) / 1e6
    print(f"{part}: {millions:.2f} M, published {published} M ({millions / published - 1:+.2%})")
    record_property(part, millions)
    assert millions == pytest.approx(published, rel=0.05)
  judges = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["discriminator"])) / 1e6
  print(f"discriminators: {judges:.2f} M")
