"""Sizes of the paper presets against the published figures, from shapes alone."""

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
  "vae": (100.1, 0.05),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_size(name, record_property):
  task = make_task(load_config(name, "paper"))
  shapes = nn.meta.unbox(jax.eval_shape(task.init, jax.random.key(0)))
  millions = sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6
  published, tolerance = PUBLISHED[name]
  print(f"{name}: {millions:.1f} M, published {published} M ({millions / published - 1:+.2%})")
  record_property("millions", millions)
  assert millions == pytest.approx(published, rel=tolerance)
