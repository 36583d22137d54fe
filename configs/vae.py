"""VAE-GAN (docs/spec.md, section 7).

    python -m melody_jax.train --config=configs/vae.py:nano --workdir=DIR --config.data.path=DATASET

`nano`: 25 Hz, D = 128, log magnitudes without phase, born as principal axes; `paper`:
250 Hz, D = 16, HiFi-GAN.
An adversarial phase of the decoder alone keeps encoded datasets valid, as the encoder stands still:

    ... --config.loss.adversarial=1 --config.loss.train_encoder=False
"""

import ml_collections

from melody_jax.config import training_config


def get_config(preset: str = "nano") -> ml_collections.ConfigDict:
  """The run of `preset`: "paper", "nano" or "tiny"."""
  c = training_config("vae", preset)
  c.model = ml_collections.ConfigDict(_MODELS[preset])
  c.discriminator = ml_collections.ConfigDict(_DISCRIMINATORS[preset])
  c.loss = ml_collections.ConfigDict()
  c.loss.mel = 1.0
  c.loss.mel_resolutions = ((2048, 128), (1024, 80), (256, 32))  # (n_fft, mel bands)
  c.loss.waveform = 0.25  # per nat of error energy
  c.loss.spectrum = 1.0  # squared error of weighted log magnitudes; of the spectral form alone
  c.loss.kl = 1e-4 if preset == "nano" else 3e-3
  c.loss.adversarial = 1.0 if preset == "paper" else 0.0
  c.loss.adversarial_from = 0  # step at which the generator starts to listen
  c.loss.feature_matching = 2.0
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
    c.optimizer.learning_rate = 2e-4
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
    c.loss.adversarial = 1.0
  return c


_MODELS = {
  "paper": dict(
    latent_dim=16,
    encoder_strides=(2, 2, 4, 6),
    encoder_widths=(64, 128, 256, 512),
    encoder_blocks=(2, 2, 4, 11),
    decoder="hifigan",
    decoder_width=768,
    upsample_rates=(6, 4, 2, 2),
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
  "tiny": dict(periods=(2, 3), period_channels=(4, 4), resolutions=(512,), resolution_channels=4),
}
