"""MusicGen's architecture at its `small` shape, random weights, run by the transformers library.

MusicGen (Copet et al. 2023, arXiv 2306.05284) is one decoder of 24 layers over 4 codebooks of 2,048
in the delay pattern, 50 frames per second, with cross-attention to a T5 text encoder, and EnCodec
at 32 kHz. The sizes come from the public config of facebook/musicgen-small; nothing is downloaded.
Guidance is that of its generation config (scale 3, two rows per item in one pass). The text is
random token ids: their values cost nothing, and their number costs little. Passes are counted as
the library makes them; transformers 5.23 makes the first one twice.

Needs the [parity] extra (torch, transformers).
"""

import dataclasses
import time
from typing import Any

SAMPLE_RATE = 32_000
FRAME_RATE = 50
CODEBOOKS = 4
GUIDANCE_SCALE = 3.0
TEXT_TOKENS = 16


class Unavailable(Exception):
  """The baseline cannot run here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Shape:
  """Sizes of the architecture; the defaults are `small`.

  Attributes:
    layers: Number of layers of the decoder.
    width: Width of the decoder.
    heads: Number of attention heads of the decoder.
    ffn_width: Inner width of its feed-forward layers.
    text_layers: Number of layers of T5 (`t5-base`).
    text_width: Width of T5.
    text_heads: Number of attention heads of T5.
    text_ffn_width: Inner width of T5's feed-forward layers.
    filters: Number of channels of EnCodec's first convolution.
  """

  layers: int = 24
  width: int = 1024
  heads: int = 16
  ffn_width: int = 4096
  text_layers: int = 12
  text_width: int = 768
  text_heads: int = 12
  text_ffn_width: int = 3072
  filters: int = 64


SMALL = Shape()


def choose_device(jax_platform: str) -> str:
  """Name of the torch device that is the same as JAX's.

  Raises:
    Unavailable: if torch or transformers is missing, or torch cannot use JAX's device.
  """
  try:
    import torch
    import transformers  # noqa: F401
  except ImportError as e:
    raise Unavailable(f"{e.name} is not installed: pip install -e '.[parity]'") from e
  if jax_platform == "cpu":
    return "cpu"
  if jax_platform in ("gpu", "cuda") and torch.cuda.is_available():
    return "cuda"
  raise Unavailable(f"jax computes on {jax_platform}, which this torch cannot: not the same device")


def versions() -> dict[str, str]:
  """Versions and threads of the libraries that run this baseline."""
  import torch
  import transformers

  threads = str(torch.get_num_threads())
  return {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "torch_threads": threads,
  }


def build(shape: Shape, device: str, dtype: str) -> Any:
  """Builds a MusicgenForConditionalGeneration with random weights, ready to generate.

  Args:
    shape: Sizes of the architecture.
    device: Name of the torch device.
    dtype: Name of the torch dtype.
  """
  import torch
  from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    T5Config,
    logging,
  )
  from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

  logging.set_verbosity_error()  # row 2048 of 2048 + 1 makes it warn of its own default
  torch.manual_seed(0)
  text = T5Config(
    d_model=shape.text_width, num_layers=shape.text_layers, num_heads=shape.text_heads,
    d_kv=shape.text_width // shape.text_heads, d_ff=shape.text_ffn_width,
  )  # fmt: skip
  codec = EncodecConfig(
    target_bandwidths=[2.2], sampling_rate=SAMPLE_RATE, audio_channels=1, num_filters=shape.filters,
    upsampling_ratios=[8, 5, 4, 4], codebook_size=2048, use_causal_conv=False,
    use_conv_shortcut=False,
  )  # fmt: skip
  decoder = MusicgenDecoderConfig(
    num_hidden_layers=shape.layers, hidden_size=shape.width, num_attention_heads=shape.heads,
    ffn_dim=shape.ffn_width, num_codebooks=CODEBOOKS,
  )  # fmt: skip
  config = MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
  model = MusicgenForConditionalGeneration(config).eval().to(device, getattr(torch, dtype))
  generation = model.generation_config
  # What the public checkpoint's generation config says; random weights come without one.
  generation.update(
    do_sample=True, guidance_scale=GUIDANCE_SCALE, pad_token_id=2048, bos_token_id=2048,
    decoder_start_token_id=2048, eos_token_id=None,
  )  # fmt: skip
  return model


@dataclasses.dataclass(frozen=True)
class Run:
  """One call of generate().

  Attributes:
    seconds: Seconds of audio per item.
    batch: Number of items.
    passes: Number of passes of the decoder, counted by a hook on it.
    wall_seconds: Time of the whole call.
    codec_seconds: The part of that time that EnCodec's decoder takes.
  """

  seconds: float
  batch: int
  passes: int
  wall_seconds: float
  codec_seconds: float


def generate(model: Any, seconds: float, batch: int) -> Run:
  """Samples `batch` items of `seconds` each, and times the call.

  Raises:
    RuntimeError: if the library makes audio of another length than was asked for.
  """
  import torch

  device = next(model.parameters()).device
  frames = round(seconds * FRAME_RATE)
  passes, codec = [0], [0.0]

  def now():
    if device.type == "cuda":
      # CUDA returns before its work is done.
      torch.cuda.synchronize()
    return time.perf_counter()

  def count(*_):
    passes[0] += 1

  decode = model.audio_encoder.decode

  def timed_decode(*args, **kwargs):
    started = now()
    audio = decode(*args, **kwargs)
    codec[0] += now() - started
    return audio

  text = torch.randint(0, 1000, (batch, TEXT_TOKENS), device=device)
  hook = model.decoder.register_forward_hook(count)
  model.audio_encoder.decode = timed_decode
  try:
    started = now()
    audio = model.generate(
      input_ids=text, attention_mask=torch.ones_like(text),
      # In the delay pattern the last codebook comes three frames after the first.
      max_new_tokens=frames + CODEBOOKS - 1,
    )  # fmt: skip
    wall = now() - started
  finally:
    hook.remove()
    model.audio_encoder.decode = decode
  # An early end token would make the comparison unfair without a sign.
  if tuple(audio.shape) != (batch, 1, frames * SAMPLE_RATE // FRAME_RATE):
    raise RuntimeError(f"asked for {batch} x {frames} frames, got audio of {tuple(audio.shape)}")
  return Run(frames / FRAME_RATE, batch, passes[0], wall, codec[0])
