"""Evaluation of a bundle of trained models, one command each, and of any system's audio.

    python -m melody_jax.evaluate --config=configs/evaluate.py:WHAT \
        --config.bundle=checkpoints/nano --config.data=recorded=DIR,rendered=DIR

WHAT: codec, tokens, mulan, dpd, prompts, sampling, or all (all but sampling); with _tiny after it
the size of tests. Each writes WHAT.json and WHAT.md under `config.out`. Metrics: docs/spec.md,
section 8, and the docstrings of melody_jax/metrics. Cost: in the "seconds" of each WHAT.json.
Scores: in the model card. Or files of audio, docs/evaluating.md:

    python -m melody_jax.evaluate --config=configs/evaluate.py:audio \
        --config.generated=DIR --config.reference=DIR [--config.training=DIR]

A number without a remark is the paper's where docs/spec.md says so; else it was not measured.
"""

import ml_collections

from melody_jax.config import check_preset
from melody_jax.places.config_pages import load

WHATS = ("codec", "tokens", "mulan", "dpd", "prompts", "all", "sampling", "audio")


def get_config(preset: str = "all") -> ml_collections.ConfigDict:
  """The settings of the evaluations; `preset` is one of WHATS, or one of them with _tiny."""
  check_preset(preset, (*WHATS, *(f"{what}_tiny" for what in WHATS)))
  c = ml_collections.ConfigDict()
  c.what, _, size = preset.partition("_")  # which evaluation, or "all"
  c.bundle = "checkpoints/nano"  # directory of the trained models
  # Array datasets with captions, [name=]directory, comma-separated. Encoded features are used
  # where the datasets hold them and computed from the audio where not.
  c.data = ""
  c.out = "evaluation"  # directory of the results
  c.split = "validation"  # where no dataset has it, another that there is, and the result says so
  c.sample_rate = 24_000  # Hz
  c.window_seconds = 10.0  # the models' training window
  c.seed = 0  # of the choice of clips and captions
  c.batch_size = 8  # windows a pass; does not change a result
  c.audio = _audio(c)

  c.codec = ml_collections.ConfigDict()
  c.codec.split = "test_other"  # whole packages that no model trains on; else as above: test
  c.codec.chunk_seconds = 20.0  # music of one pass, by memory; does not change a result
  c.codec.context_seconds = 2.0  # on either side; covers both receptive fields
  c.codec.musicnn = True  # FAD by the independent tagger; its weights are fetched on first use

  c.tokens = ml_collections.ConfigDict()
  # Of training and of held-out audio, for what tokens explain.
  c.tokens.explained_windows = 400

  c.mulan = ml_collections.ConfigDict()
  c.mulan.clips = 200  # held-out clips of each dataset; a recall's standard error is 3.5 % at most
  c.mulan.k = 10  # recall at k
  c.mulan.draws = 5  # captions drawn per clip, averaged

  c.dpd = ml_collections.ConfigDict()
  c.dpd.windows = 64  # held-out windows of each dataset; their spread is reported
  c.dpd.draws = 4  # noises and angles per window

  c.prompts = ml_collections.ConfigDict()
  c.prompts.table = PROMPTS  # texts, with the tags that obeying them should raise
  c.prompts.seeds = (0, 1, 2)  # pieces of every prompt
  c.prompts.seconds = 10.0  # one window of the models
  c.prompts.permutations = 10_000  # p-values down to 1e-4
  c.prompts.musicnn = True  # the independent tagger; its weights are fetched on first use
  c.prompts.keep_audio = False  # write the clips beside the table
  c.prompts.sampling = _sampler()

  c.sampling = ml_collections.ConfigDict()
  c.sampling.prompts = FAMILY_PROMPTS  # two of each family that musicnn can tell apart
  c.sampling.seconds = 10.0  # one window of the models
  c.sampling.reference_windows = 32  # held-out windows of each dataset
  c.sampling.sampler = _sampler()
  if size == "tiny":
    _tiny(c)
  return c


def _sampler() -> ml_collections.ConfigDict:
  """What users hear who change nothing; the reasons stand in configs/sample.py."""
  sample = load("sample")
  sampler = ml_collections.ConfigDict()
  sampler.steps = sample.steps  # denoising steps
  sampler.schedule = sample.schedule  # angle steps: "linear" or "uniform"
  sampler.solver = sample.solver  # "ddim" or "ab2"
  sampler.guidance_scale = sample.guidance_scale  # of the DPD; 1 is none
  sampler.temperature = sample.lm.temperature  # of the LM; 0: the likeliest token
  sampler.top_k = sample.lm.top_k  # 0: all tokens
  sampler.top_p = sample.lm.top_p  # 1: all tokens
  sampler.lm_guidance_scale = sample.lm.guidance_scale  # away from "no style"; 1 is none
  return sampler


def _audio(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Settings of the comparison of audio files; sets the directories themselves beside it."""
  c.generated = ""  # directory of a system's files, any format, searched through
  c.reference = ""  # directory of real music, as long a clip
  c.training = ""  # directory of what the system was trained on, to look for copies; may be empty
  audio = ml_collections.ConfigDict()
  audio.embeddings = "musicnn,mulan"  # also musicnn_mtt, vggish=FILE, clap=FILE
  audio.notes = ""  # nmp.onnx of basic-pitch, or its wheel; empty: as installed; "none": without
  audio.prompts = ""  # CSV with columns file, prompt; empty: the reports beside the files
  audio.tags = True  # whether tags of musicnn (MagnaTagATune) agree with the prompts
  audio.level = "same"  # embeddings hear all clips at -20 LUFS; "as_is": at their own level
  audio.max_seconds = 60.0  # of a file that are measured
  audio.draws = 4  # subsets of each size for FAD-infinity
  audio.players = 16  # generated clips to be heard in the page; half as many of the reference
  return audio


def _tiny(c: ml_collections.ConfigDict) -> None:
  """For tests: seconds, and no network."""
  c.batch_size = 2
  c.codec.chunk_seconds = 5.0
  c.codec.context_seconds = 0.5
  c.codec.musicnn = False
  c.tokens.explained_windows = 4
  c.mulan.clips = 4
  c.mulan.k = 2
  c.dpd.windows = 3
  c.dpd.draws = 1
  c.prompts.table = PROMPTS[:2]
  c.prompts.seeds = (0, 1)
  c.prompts.permutations = 20
  c.prompts.musicnn = False
  c.prompts.sampling.steps = 2
  c.audio.players = 2
  c.sampling.prompts = FAMILY_PROMPTS[::4]
  c.sampling.reference_windows = 4
  c.sampling.sampler.steps = 2


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

# Two prompts of each family of evaluation/systems/prompt_words.py; some say slow or fast.
FAMILY_PROMPTS = (
  "slow piano ballad",
  "fast virtuoso piano",
  "slow string ensemble",
  "string quartet playing a waltz",
  "acoustic guitar ballad",
  "nylon guitar bossa nova",
  "a flute melody over strings",
  "solo flute",
  "slow heavy drums and bass",
  "fast funk drum groove with bass",
  "driving techno",
  "dark fast techno",
  "slow ambient pads",
  "dark ambient drone",
  "a choir singing a hymn",
  "slow choir",
)
