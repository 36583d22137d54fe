"""Evaluation of a bundle of trained models: what the model card states, one command each.

    python -m melody_jax.evaluate --config=configs/evaluate.py:WHAT \
        --config.bundle=checkpoints/nano --config.data=recorded=DIR,rendered=DIR

WHAT: codec, tokens, mulan, dpd, prompts, or all. Each writes WHAT.json and WHAT.md under
`config.out`. Metrics: docs/spec.md, section 8 and the docstrings of melody_jax/metrics.
"""

import ml_collections

WHATS = ("codec", "tokens", "mulan", "dpd", "prompts")


def get_config(what: str = "all") -> ml_collections.ConfigDict:
  """The settings of the evaluations; `what` names one of them, or "all"."""
  c = ml_collections.ConfigDict()
  c.what = what
  c.bundle = "checkpoints/nano"
  # Array datasets with captions, [name=]directory, comma-separated. Encoded features are used
  # where the datasets hold them and computed from the audio where not.
  c.data = ""
  c.out = "evaluation"
  c.split = "validation"
  c.sample_rate = 24_000  # Hz
  c.window_seconds = 10.0
  c.seed = 0
  c.batch_size = 8

  c.codec = ml_collections.ConfigDict()
  c.codec.split = "test_other"  # whole packages that no model trains on
  c.codec.chunk_seconds = 20.0
  c.codec.context_seconds = 2.0  # on either side; covers both receptive fields

  c.mulan = ml_collections.ConfigDict()
  c.mulan.clips = 200  # held-out clips of each dataset
  c.mulan.k = 10
  c.mulan.draws = 5  # captions drawn per clip, averaged

  c.dpd = ml_collections.ConfigDict()
  c.dpd.windows = 64  # of each dataset
  c.dpd.draws = 4  # noises and angles per window

  c.prompts = ml_collections.ConfigDict()
  c.prompts.table = PROMPTS
  c.prompts.seeds = (0, 1, 2)
  c.prompts.seconds = 10.0
  c.prompts.permutations = 10_000
  c.prompts.musicnn = True  # the independent tagger; its weights are fetched on first use
  c.prompts.keep_audio = False  # write the clips beside the table
  c.prompts.sampling = ml_collections.ConfigDict()
  c.prompts.sampling.steps = 10
  c.prompts.sampling.schedule = "linear"
  c.prompts.sampling.guidance_scale = 2.5
  c.prompts.sampling.temperature = 1.0
  c.prompts.sampling.top_k = 0  # 0: all tokens
  c.prompts.sampling.top_p = 1.0
  c.prompts.sampling.lm_guidance_scale = 3.0
  return c


# (prompt, tags of musicnn that obeying music should raise: MagnaTagATune's, Million Song
# Dataset's). The tags were fixed before any output was heard.
PROMPTS = (
  (
    "slow bossa nova with nylon guitar",
    "guitar, slow, soft",
    "jazz, acoustic, Mellow, easy listening, guitar",
  ),
  (
    "epic orchestral battle music with brass and drums",
    "classical, strings, loud",
    "instrumental",
  ),
  (
    "dark ambient techno",
    "techno, electronic, ambient, synth",
    "electronic, ambient, electronica",
  ),
  (
    "cheerful chip tune",
    "electronic, synth, fast",
    "electronic, happy",
  ),
  (
    "jazz swing with a piano trio",
    "piano",
    "jazz, easy listening, oldies",
  ),
  (
    "slow ballad with strings",
    "slow, strings, violin, quiet",
    "beautiful, sad, Mellow",
  ),
  (
    "reggae with bass and organ",
    "beat, drums",
    "chill, funk, soul",
  ),
  (
    "waltz for accordion and strings",
    "classical, strings, slow",
    "folk, oldies, easy listening",
  ),
  (
    "heavy metal with distorted guitars",
    "metal, rock, loud, guitar",
    "metal, heavy metal, hard rock, rock",
  ),
  (
    "baroque organ fugue",
    "classical, classic, harpsichord, solo",
    "instrumental",
  ),
  (
    "fast samba with percussion",
    "drums, fast, beat",
    "dance, party, jazz",
  ),
  (
    "blues shuffle with electric guitar",
    "guitar, rock, drums",
    "blues, classic rock, guitar, rock",
  ),
  (
    "country song with steel guitar and piano",
    "country, guitar",
    "country, folk, acoustic",
  ),
  (
    "disco with strings and a funky bass",
    "dance, beat, pop",
    "dance, funk, 70s, party",
  ),
  (
    "passionate tango",
    "violin, strings, classical",
    "instrumental, jazz, oldies",
  ),
  (
    "space synth music, floating and calm",
    "synth, ambient, new age, electronic",
    "ambient, electronic, chillout",
  ),
  (
    "military march with brass band",
    "drums, loud",
    "instrumental, oldies",
  ),
  (
    "folk tune on a solo fiddle",
    "violin, solo, country",
    "folk, acoustic, instrumental",
  ),
  (
    "fast drum and bass",
    "drums, beats, fast, electronic, techno",
    "electronic, electro, dance",
  ),
  (
    "mysterious oriental desert music with flute",
    "indian, flute, sitar",
    "instrumental, ambient, experimental",
  ),
)
