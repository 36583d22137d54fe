"""VAE-GAN (docs/spec.md, section 7).

    python -m melody_jax.train --config=configs/vae.py:nano --workdir=DIR --config.data.path=DATASET

`nano`: 25 Hz, D = 128, log magnitudes without phase, born as principal axes; `paper`:
250 Hz, D = 16, HiFi-GAN on both sides, as the paper's appendix B.1 has it.
An adversarial phase of the decoder alone keeps encoded datasets valid, as the encoder stands still:

    ... --config.loss.adversarial=0.25 --config.loss.train_encoder=False

A number without a remark is the paper's where docs/spec.md says so; else it was not measured.
"""

import ml_collections
from ml_collections import config_dict

from melody_jax.config import training_config


def get_config(preset: str = "nano") -> ml_collections.ConfigDict:
  """The run of `preset`: "paper", "nano" or "tiny"."""
  c = training_config("vae", preset)
  c.model = ml_collections.ConfigDict(_MODELS[preset])
  c.discriminator = ml_collections.ConfigDict(_DISCRIMINATORS[preset])
  c.loss = ml_collections.ConfigDict()
  c.loss.stft = 50.0  # the paper's; of waveforms
  c.loss.stft_resolutions = _STFTS  # n_fft, window and hop of each, in samples
  c.loss.spectrum = 1.0  # squared error of weighted log magnitudes; of the spectral form instead
  c.loss.kl = {"paper": 5e-3, "nano": 1e-4, "tiny": 3e-3}[preset]  # the paper's is the first
  c.loss.adversarial = {"paper": 1.0, "nano": 0.0, "tiny": 0.25}[preset]  # a discriminator
  c.loss.adversarial_from = 0  # step at which the generator starts to listen
  c.loss.feature_matching = 20.0 if preset == "paper" else 0.5  # a discriminator
  # Whether its maps are compared relative to their size, as the small presets do (choice): four
  # bands have very different ones.
  c.loss.relative_matching = preset != "paper"
  c.loss.train_encoder = True  # False: frozen, so that encoded datasets stay valid
  c.optimizer.b1 = 0.8
  c.optimizer.weight_decay = 1e-3
  c.train.ema_decay = 0.999
  c.train.media = True
  if preset == "paper":
    c.window_seconds = 2.0
    c.train.batch_size = 256
    c.train.accumulate = 4
    c.train.steps = 500_000
    c.optimizer.learning_rate = 2e-4  # HiFi-GAN's, of both players
    # HiFi-GAN clips nothing. These stop spikes alone: at birth the norms are some hundreds and ten.
    c.optimizer.clip_norm = 1e3
  if preset == "nano":
    c.window_seconds = 4.8  # whole frames of 40 ms; a window of 128 ms is short against it
    c.train.batch_size = 8
    c.train.steps = 1500
    c.optimizer.learning_rate = 5e-4
    c.train.eval_every = 200
    c.train.save_every = 100
  if preset == "tiny":
    c.window_seconds = 0.96
    c.train.batch_size = 2
    c.train.steps = 4
    c.train.log_every = 1
    c.train.eval_batches = 1
  # Each player has an optimiser of its own. The discriminators' is set as `optimizer` but for:
  c.discriminator_optimizer = ml_collections.ConfigDict()
  c.discriminator_optimizer.learning_rate = config_dict.placeholder(float)  # None: the same
  c.discriminator_optimizer.clip_norm = config_dict.placeholder(float)  # None: the same
  if preset == "paper":
    c.discriminator_optimizer.clip_norm = 10.0
  return c


# The paper's seven STFTs: n_fft, window and hop in samples.
_STFTS = (
  (8192, 4096, 2048),
  (4096, 2048, 1024),
  (2048, 1024, 512),
  (512, 256, 128),
  (128, 64, 32),
  (64, 32, 16),
  (32, 16, 8),
)

_MODELS = {
  "paper": dict(
    latent_dim=16,
    clip_latents=True,
    encoder_strides=(2, 3, 4, 4),
    encoder_widths=(32, 64, 128, 256),
    encoder_kernels=(5, 7, 9, 9),
    # The paper says how many parameters, not how many blocks: seven a stage and one a stage, of
    # HiFi-GAN's longest kernel, meet 40 M and 60.1 M (tests/test_parameter_counts.py).
    encoder_blocks=(7, 7, 7, 7),
    decoder="hifigan",
    decoder_width=768,
    upsample_rates=(4, 4, 3, 2),
    upsample_widths=(768, 384, 192, 96),
    upsample_kernels=(9, 9, 5, 7),
    resblock_kernels=(11,),
    remat=True,
    dtype="bfloat16",
  ),
  "nano": dict(
    latent_dim=128,  # 96 keep fewer notes, 192 no more of them
    encoder_strides=(960,),  # 25 Hz, two spectra a latent frame
    encoder_widths=(256,),
    encoder_blocks=(3,),
    decoder="spectral",
    decoder_width=320,
    decoder_blocks=3,  # with the phase they reach 62 frames: two of them fit a window of 250
    n_fft=3072,
    window_std=504.0,  # 21 ms: long enough to tell notes apart, short enough for attacks
    stft_hop=480,
    tilt=1.0,  # 0.5 leaves fewer axes to the bins where the notes are
    phase_iterations=16,  # 32 and 64 hold no more notes
    mlp_ratio=3,
  ),
  "tiny": dict(
    latent_dim=8,
    encoder_strides=(480,),
    encoder_widths=(16,),
    encoder_blocks=(1,),
    decoder="spectral",
    decoder_width=16,
    decoder_blocks=1,
    n_fft=512,
    window_std=96.0,
    stft_hop=240,
    phase_iterations=4,
  ),
}

_DISCRIMINATORS = {
  "paper": dict(dtype="bfloat16"),
  "nano": dict(period_channels=(8, 16, 32, 64, 64), resolution_channels=16),
  "tiny": dict(
    periods=(2, 3), period_channels=(4, 4), resolutions=((512, 128, 512),), resolution_channels=4
  ),
}
