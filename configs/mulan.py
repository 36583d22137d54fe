"""MuLan: joint music and text embedding (docs/spec.md, section 3; arXiv 2208.12415).

    python -m melody_jax.train --config=configs/mulan.py:nano --workdir=runs/mulan \
        --config.data.path=DATASETS
    python -m melody_jax.export --config=configs/mulan.py:nano --workdir=runs/mulan \
        --config.export.bundle=checkpoints/nano
    python -m melody_jax.fit --config=configs/fit.py:style \
        --config.bundle=checkpoints/nano --config.data.path=DATASETS

Work of nano, by arithmetic: a clip has 4 x 31 patches of 0.32 s, and a training step sees half of
them. 62 tokens through 1.8 M weights are 0.7 GFLOP a clip with gradients, 45 GFLOP a batch.

| preset | parameters | cost | score |
| --- | --- | --- | --- |
| paper | 195.8 M | not measured | not measured |
| nano | 2.1 M, and frozen MiniLM | 0.86 s a step on 2 cores (docs/benchmarks.md) | not measured |
| tiny | tests | seconds | none |

A number without a remark is the paper's where docs/spec.md says so; else it was not measured.
"""

import ml_collections

from melody_jax.config import training_config


def get_config(preset: str = "nano") -> ml_collections.ConfigDict:
  """Config of a training run; `preset` is "paper", "nano" or "tiny"."""
  presets = {"paper": _paper, "nano": _nano, "tiny": _tiny}
  c = training_config("mulan", preset)
  c.model.joint_size = 128  # docs/spec.md, section 3
  c.model.init_temperature = 0.07  # CLIP's
  c.model.sample_rate = c.sample_rate
  c.model.window_samples = int(c.window_seconds * c.sample_rate)
  c.model.n_fft = 1024  # the power of two over the window
  c.model.mel_mean = -4.6  # measured on 100 recorded training clips
  c.model.mel_std = 2.2  # measured on the same clips
  c.model.patch = 16  # docs/spec.md, section 3
  c.model.patch_stride = 0  # side by side
  c.model.music_rate = 0  # Hz at which the music tower hears; 0: sample_rate
  c.model.music_front = "log_mel"  # or "kaldi", as AST
  c.model.music_init = ""  # at random; or an AST-shaped model.safetensors, or its directory
  c.model.text_vocab = 30_522  # uncased English WordPiece
  c.model.text_positions = 512  # BERT's; a public checkpoint has as many rows
  c.model.dropout = 0.1  # BERT's; not measured
  c.optimizer.weight_decay = 0.05  # not measured
  c.optimizer.b2 = 0.98  # not measured
  presets[preset](c)
  return c


def _paper(c: ml_collections.ConfigDict) -> None:
  """The paper's towers: AST over 12 x 99 patches of a 16 kHz clip, and BERT-base.

  Both begin at random here. To begin with the public checkpoints as the paper does, name them:

      --config.model.music_init=DIR  (MIT/ast-finetuned-audioset-10-10-0.4593)
      --config.model.text_init=DIR   (bert-base-uncased, its vocabulary beside it)
  """
  # docs/spec.md, section 3.1; the numbers of the front end are those AST was trained on.
  c.model.music_rate = 16_000
  c.model.music_front = "kaldi"
  c.model.n_mels = 128
  c.model.n_fft = 512
  c.model.win_length = 400  # 25 ms
  c.model.hop_length = 160  # 10 ms
  c.model.mel_mean = -4.2677393  # AudioSet's
  c.model.mel_std = 9.1379948  # twice AudioSet's, as AST divides
  c.model.patch_stride = 10
  c.model.patch_keep = 1.0  # all
  c.model.time_masks = 2
  c.model.time_mask_frames = 96  # about 1 s; not measured
  c.model.mel_masks = 2
  c.model.mel_mask_bands = 24  # not measured
  c.model.music_width = 768  # ViT-B/16, with the four numbers below
  c.model.music_layers = 12
  c.model.music_heads = 12
  c.model.music_mlp = 3072
  c.model.music_pooling = "cls_distillation"  # as AST's own head
  c.model.text_length = 128  # tokens; longer captions are cut
  c.model.text_width = 768  # BERT-base, with the four numbers below
  c.model.text_layers = 12
  c.model.text_heads = 12
  c.model.text_mlp = 3072
  c.model.text_pooling = "pooler"
  c.model.text_hidden = 0  # a linear head
  c.model.text_init = ""  # random
  c.model.text_frozen = False
  c.model.remat = True
  c.model.dtype = "bfloat16"
  c.train.batch_size = 4096  # the negatives of a row; not measured
  c.train.steps = 200_000  # not measured
  c.train.save_every = 2_000
  c.train.eval_every = 2_000
  c.optimizer.learning_rate = 1e-4  # not measured
  c.optimizer.warmup_steps = 10_000  # not measured


def _nano(c: ml_collections.ConfigDict) -> None:
  """A small size that two CPU cores can train. Its text encoder is MiniLM-L6 and stays frozen."""
  c.model.n_mels = 64  # half of the paper's, with half as many frames: a quarter of the patches
  c.model.win_length = 960  # 40 ms
  c.model.hop_length = 480  # 20 ms
  c.model.patch_keep = 0.5  # halves the work of a step
  c.model.time_masks = 2
  c.model.time_mask_frames = 48  # about 1 s; not measured
  c.model.mel_masks = 2
  c.model.mel_mask_bands = 8  # not measured
  c.model.music_width = 192
  c.model.music_layers = 4
  c.model.music_heads = 4
  c.model.music_mlp = 768
  c.model.music_pooling = "mean"
  c.model.text_length = 64  # tokens; longer captions are cut
  c.model.text_width = 384  # MiniLM-L6, with the four numbers below
  c.model.text_layers = 6
  c.model.text_heads = 12
  c.model.text_mlp = 1536
  c.model.text_pooling = "mean"  # as MiniLM was trained
  c.model.text_hidden = 512  # the only part of the text tower that trains; not measured
  c.model.text_init = "minilm"
  c.model.text_frozen = True  # captions are few; this way free text still works
  c.train.batch_size = 64  # not measured
  c.train.steps = 2000  # recall still rises then; docs/experiments.md
  c.train.ema_decay = 0.99  # not measured
  c.train.eval_every = 250
  c.train.save_every = 250
  c.train.eval_batches = 4
  c.optimizer.name = "muon"  # docs/experiments.md
  c.optimizer.learning_rate = 1e-3  # not measured


def _tiny(c: ml_collections.ConfigDict) -> None:
  """For tests: trains in seconds."""
  c.model.n_mels = 32
  c.model.win_length = 960
  c.model.hop_length = 960
  c.model.patch_keep = 0.5
  c.model.time_masks = 1
  c.model.time_mask_frames = 8
  c.model.mel_masks = 1
  c.model.mel_mask_bands = 4
  c.model.music_width = 16
  c.model.music_layers = 1
  c.model.music_heads = 2
  c.model.music_mlp = 32
  c.model.music_pooling = "mean"
  c.model.text_length = 16
  c.model.text_width = 16
  c.model.text_layers = 1
  c.model.text_heads = 2
  c.model.text_mlp = 32
  c.model.text_pooling = "mean"
  c.model.text_hidden = 16
  c.model.text_init = ""
  c.model.text_frozen = False
  c.train.batch_size = 4
  c.train.steps = 4
  c.train.log_every = 1
  c.train.eval_every = 4
  c.train.eval_batches = 1
  c.train.save_every = 4
