"""Sampling: text or a clip of music in, 24 kHz mono audio out.

    python -m melody_jax.sample --config=configs/sample.py \
        --config.prompt="slow bossa nova with nylon guitar" \
        --config.seconds=10 --config.seed=0 --config.out=x.wav

Writes x.wav, its spectrogram x.png and its report x.json. MeLoDy (arXiv 2305.15719) section 4.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The settings of one sample."""
  c = ml_collections.ConfigDict()
  c.mode = "generate"  # or "reconstruct": `audio` through the codec alone
  c.checkpoint = "checkpoints/nano"  # directory of the five models' safetensors files

  c.prompt = ""  # what it should sound like, at most 1,000 characters
  c.music_prompt = ""  # or an audio file whose style to follow, 1 s to 20 min
  c.audio = ""  # mode "reconstruct": the audio file

  c.out = "sample.wav"  # .wav, .flac, .ogg or .mp3
  c.seconds = 10.0  # 1 to 600
  c.seed = 0

  c.steps = 10  # denoising steps of the DPD, 1 to 100
  c.schedule = "linear"  # of angles: "linear" (the paper's) or "uniform"
  c.guidance_scale = 2.5  # of the DPD; 1 is none

  c.lm = ml_collections.ConfigDict()
  c.lm.temperature = 1.0  # 0: always the most likely token
  c.lm.top_k = 0  # 0: all tokens
  c.lm.top_p = 1.0
  c.lm.guidance_scale = 1.0  # away from "no style"; 1 is none, more doubles the LM's work

  c.normalise = True  # to `loudness`, or less where the peak would pass 0.99
  c.loudness = -16.0  # LUFS
  return c
