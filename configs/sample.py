"""Sampling: text or music in, 24 kHz mono audio out.

    python -m melody_jax.sample --config=configs/sample.py \
        --config.prompt="slow bossa nova with nylon guitar" \
        --config.seconds=10 --config.seed=0 --config.out=x.wav

Writes x.wav, its spectrogram x.png and its report x.json. MeLoDy (arXiv 2305.15719) section 4.
Names and ranges: melody_jax/generation/options.py. Cost: docs/benchmarks.md. Scores: in the model
card.

A number without a remark is the paper's where docs/spec.md says so; else it was not measured.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The settings of one sample, or of several with successive seeds."""
  c = ml_collections.ConfigDict()
  # "generate", "continue" or "vary" or "inpaint" (of `audio`), "stream" (without an end), or
  # "reconstruct": `audio` through the codec alone.
  c.mode = "generate"
  c.checkpoint = "checkpoints/nano"  # directory of the five models' safetensors files

  c.prompt = ""  # what it should sound like, at most 1,000 characters; several: "this | that"
  # A file of prompts, one a line, with a seed in front if wanted ("7: dark techno"); makes x-1.wav,
  # x-2.wav, ... and a report each.
  c.prompts = ""
  c.music_prompt = ""  # an audio file whose style to follow, 1 s to 20 min; alone or with texts
  c.weights = ""  # "0.7, 0.3": shares of the mixture, one a text, then `music_prompt`; "": equal
  c.times = ""  # "0, 20": texts hold at these seconds, in between their mean; "": mixed all along
  c.negative_prompt = ""  # what to move away from; needs lm.guidance_scale over 1

  c.audio = ""  # the audio file to continue, inpaint, vary or reconstruct; "stream": go on after it
  c.regions = ""  # mode "inpaint": "3.5-5, 1:05-1:20" of `audio` are made anew
  c.strength = 0.0  # noise of "vary" and "inpaint", to 1: under 0.5 the tune stays. 0: all noise

  c.out = "sample.wav"  # .wav, .flac, .ogg or .mp3; mode "stream": also "-", 16-bit PCM to stdout
  c.overwrite = False  # replace files that melody_jax did not write, too
  c.seconds = 10.0  # music to make, 1 to 600, or 1:30; mode "stream": also 0, until interrupted
  c.seed = 0  # another one, other music; -1: one is drawn, and reported
  c.count = 1  # pieces of seeds `seed`, `seed` + 1, ..., in one batch: x-0.wav, x-1.wav, ...

  c.steps = 10  # denoising steps of the DPD, 1 to 100; the paper has 5, 10 and 20
  c.schedule = "linear"  # angle steps: "linear" (the paper's, better there) or "uniform"
  c.solver = "ddim"  # or "ab2", of second order: fewer steps for the same error
  # Guidance of the DPD; 1 is none. The paper has 2.5; with the shipped model more makes music
  # louder than what it learned from: docs/experiments.md.
  c.guidance_scale = 1.5
  c.guidance_low = 0.0  # guidance acts from this share of the noise angle on,
  c.guidance_high = 1.0  # and up to this one; steps outside cost half
  c.guidance_rescale = 0.0  # 0 to 1: back to the spread that the velocity has without guidance
  c.dtype = "float32"  # dtype of computation, or "bfloat16"

  c.lm = ml_collections.ConfigDict()
  c.lm.temperature = 1.0  # 0: always the most likely token
  c.lm.top_k = 0  # 0: all tokens
  c.lm.top_p = 1.0  # 1: all tokens; not measured, like the two above
  # Away from the negative prompt, or from "no style"; 1 is none. At 3 more notes hold and fewer
  # clips fall silent than at 1 or 2: docs/experiments.md, "the whole schedule".
  c.lm.guidance_scale = 3.0
  c.lm.repetition_penalty = 0.0  # off a token's logit for each time it was drawn lately
  c.lm.repetition_span = 50  # how many tokens back that is counted (25 a second)

  c.stream = ml_collections.ConfigDict()
  c.stream.save = ""  # file for the stream's state at its end
  c.stream.resume = ""  # file of `stream.save` to go on from; a prompt given now takes over

  c.normalise = True  # bring to `loudness`, or less where the peak would pass 0.99 (streams: bent)
  c.loudness = -16.0  # LUFS (choice); mode "stream": that of the 10 s around
  return c
