"""What is listened to in training is drawn as users draw it."""

from melody_jax.denoisers import sampling
from melody_jax.generation.request import Settings
from tests.configs import load_config


def test_the_guidance_is_that_of_the_sampler():
  assert sampling.GUIDANCE == Settings.guidance_scale == load_config("sample").guidance_scale
