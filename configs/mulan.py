"""MuLan: joint music and text embedding (docs/spec.md, section 3; arXiv 2208.12415).

    python -m melody_jax.train --config=configs/mulan.py:nano --workdir=runs/mulan \
        --config.data.path=DATASETS
    python -m melody_jax.export --config=configs/mulan.py:nano --workdir=runs/mulan \
        --config.export.bundle=checkpoints/nano
    python -m melody_jax.fit --config=configs/fit.py:style \
        --config.bundle=checkpoints/nano --config.data.path=DATASETS

Presets: paper (195.3 M parameters, not trained: cost and score not measured), nano, tiny (tests).
"""

import ml_collections

from melody_jax.config import training_config


def get_config(preset: str = "nano") -> ml_collections.ConfigDict:
  """Config of a training run; `preset` is paper, nano or tiny."""
  c = training_config("mulan", preset)
  c.model.joint_size = 128  # docs/spec.md, section 3
  c.model.init_temperature = 0.07
  c.model.sample_rate = c.sample_rate
  c.model.window_samples = int(c.window_seconds * c.sample_rate)
  c.model.patch = 16  # docs/spec.md, section 3
  c.model.text_vocab = 30_522  # uncased English WordPiece
  c.model.text_positions = 512
  c.optimizer.weight_decay = 0.05
  c.optimizer.b2 = 0.98
  {"paper": _paper, "nano": _nano, "tiny": _tiny}[preset](c)
  return c


def _paper(c: ml_collections.ConfigDict) -> None:
  c.model.update(
    # docs/spec.md, section 3: 25 ms windows every 10 ms. 8 x 62 patches. mel_mean and mel_std here
    # and below: measured on 100 recorded training clips.
    n_mels=128, n_fft=1024, win_length=600, hop_length=240, mel_mean=-4.6, mel_std=2.2,
    patch_keep=1.0, time_masks=2, time_mask_frames=96, mel_masks=2, mel_mask_bands=24,
    music_width=768, music_layers=12, music_heads=12, music_mlp=3072,  # ViT-B/16
    music_pooling="cls",
    text_length=128,
    text_width=768, text_layers=12, text_heads=12, text_mlp=3072,  # BERT-base
    text_pooling="pooler",
    text_hidden=0, text_init="", text_frozen=False, dropout=0.1, remat=True, dtype="bfloat16",
  )  # fmt: skip
  c.train.batch_size = 4096
  c.train.steps = 200_000
  c.train.save_every = 2_000
  c.train.eval_every = 2_000
  c.optimizer.learning_rate = 1e-4
  c.optimizer.warmup_steps = 10_000


def _nano(c: ml_collections.ConfigDict) -> None:
  c.model.update(
    # 4 x 31 patches of 0.32 s, half of them seen by a training step: 62 tokens through
    # 1.8 M weights are 0.7 GFLOP a clip with gradients, 45 GFLOP a batch.
    n_mels=64, n_fft=1024, win_length=960, hop_length=480, mel_mean=-4.6, mel_std=2.2,
    patch_keep=0.5, time_masks=2, time_mask_frames=48, mel_masks=2, mel_mask_bands=8,
    music_width=192, music_layers=4, music_heads=4, music_mlp=768, music_pooling="mean",
    text_length=64,
    text_width=384, text_layers=6, text_heads=12, text_mlp=1536, text_pooling="mean",  # MiniLM-L6
    text_hidden=512, text_init="minilm", text_frozen=True, dropout=0.1,
  )  # fmt: skip
  c.train.batch_size = 64
  c.train.steps = 1500
  c.train.ema_decay = 0.99
  c.train.eval_every = 250
  c.train.save_every = 250
  c.train.eval_batches = 4
  c.optimizer.learning_rate = 1e-3


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.model.update(
    n_mels=32, n_fft=1024, win_length=960, hop_length=960, mel_mean=-4.6, mel_std=2.2,
    patch_keep=0.5, time_masks=1, time_mask_frames=8, mel_masks=1, mel_mask_bands=4,
    music_width=16, music_layers=1, music_heads=2, music_mlp=32, music_pooling="mean",
    text_length=16,
    text_width=16, text_layers=1, text_heads=2, text_mlp=32, text_pooling="mean",
    text_hidden=16, text_init="", text_frozen=False, dropout=0.1,
  )  # fmt: skip
  c.train.batch_size = 4
  c.train.steps = 4
  c.train.log_every = 1
  c.train.eval_every = 4
  c.train.eval_batches = 1
  c.train.save_every = 4
