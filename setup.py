"""Installs melody_jax; `pip install -e .` is all that sampling needs.

The base install samples: no TensorFlow, no torch. Extras add the rest:

  train   one training loop and TensorBoard files; builds, encodes and reads datasets, no TensorFlow
  data    seqio input (TensorFlow)
  eval    the evaluation command
  plan    the TPU compiler, for melody_jax.plan; needs no TPU
  gpu_plan  the compiler for NVIDIA GPUs, for melody_jax.plan; needs no GPU, takes 5.5 GB
  gcs     workdirs in Google Cloud Storage (gs://...)
  tpu     jax for Cloud TPU
  cuda    jax for NVIDIA GPUs
  test    pytest; the suite also wants train, data and eval
  lint    ruff and mypy
  parity  torch references for the parity tests; use the CPU build of torch

Ranges here state what the code needs. constraints.txt states versions that were tested together.
"""

from pathlib import Path
import re

from setuptools import find_namespace_packages, find_packages, setup
from setuptools.command.build_py import build_py

# Read, not imported: building must not need the packages that the program needs.
PROVENANCE = Path(__file__).parent / "melody_jax" / "provenance.py"
(VERSION,) = re.findall('^VERSION = "(.+)"$', PROVENANCE.read_text(encoding="utf-8"), re.M)

BASE = [
  "absl-py>=2.1",
  "etils[epath]>=1.9",
  "flax>=0.12",
  "jax>=0.10",
  "librosa>=0.11",
  "matplotlib>=3.8",
  "ml_collections>=1.0",
  "numpy>=2.0",
  "optax>=0.2.5",
  "pooch>=1.7",  # librosa brings it, with requests
  "pyloudnorm>=0.1.1",
  "safetensors>=0.5",
  "scipy>=1.13",
  "threadpoolctl>=3.1",  # scikit-learn, which librosa needs, brings it
  "soundfile>=0.13",
  "tokenizers>=0.21",
  "tqdm>=4.66",
]

EXTRAS = {
  "train": [
    "array_record>=0.8",
    "grain>=0.2.12",
    "importlib_resources>=6",  # TFDS imports it and does not ask for it
    "orbax-checkpoint>=0.11.30",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.8",  # it does without TensorFlow
  ],
  "data": [
    # seqio asks for sentencepiece>=0.2; from 0.2.1 on it collides with TensorFlow's protobuf 6.
    "sentencepiece>=0.2,<0.2.1",
    "seqio>=0.0.19",
    "tensorflow>=2.19",
  ],
  "eval": ["onnxruntime>=1.19"],  # musicnn's weights are fetched when first used
  "plan": ["libtpu"],
  # Not "cuda": there the plugin looks for a card. Both bring the same wheels.
  "gpu_plan": ["jax-cuda12-plugin[with-cuda]>=0.10"],
  "gcs": ["gcsfs>=2024.6"],
  "tpu": ["jax[tpu]>=0.10"],
  "cuda": ["jax[cuda12]>=0.10"],
  "test": ["onnx>=1.17", "pytest>=8", "pytest-xdist>=3.6"],
  "lint": ["mypy>=1.11", "ruff>=0.9"],
  "parity": ["ninja", "sru>=2.6", "torch>=2.5", "transformers>=4.50"],
}

# Folders of the checkout that a wheel has inside the package: top-level `configs` and `data` of
# site-packages would meet those of others.
INSIDE = ("configs", "data")
OWN_IMPORT = re.compile(rf"^(\s*(?:from|import) )((?:{'|'.join(INSIDE)})(?:\.\w+)*)(?=\s)", re.M)


class BuildInside(build_py):
  """Copies modules; those of INSIDE import each other by the names that they have in the wheel."""

  def build_module(self, module, module_file, package):
    """Copies one module; `from data.build` becomes `from melody_jax.data.build`."""
    written, copied = super().build_module(module, module_file, package)
    if package.split(".")[1:2] and package.split(".")[1] in INSIDE:
      path = Path(written)
      text = path.read_text(encoding="utf-8")
      path.write_text(OWN_IMPORT.sub(r"\1melody_jax.\2", text), encoding="utf-8")
    return written, copied


setup(
  name="melody_jax",
  version=VERSION,
  description="MeLoDy (language-model-guided latent diffusion for music) in JAX",
  long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=[
    *find_packages(include=["melody_jax", "melody_jax.*"]),
    # The pages of configs/ are files that are loaded by path: their folders have no __init__.py.
    *(
      f"melody_jax.{name}"
      for inside in INSIDE
      for name in find_namespace_packages(include=[inside, f"{inside}.*"])
      if "__pycache__" not in name
    ),
  ],
  package_dir={f"melody_jax.{inside}": inside for inside in INSIDE},
  cmdclass={"build_py": BuildInside},
  entry_points={"console_scripts": ["melody-jax = melody_jax.console.main:main"]},
  install_requires=BASE,
  extras_require=EXTRAS,
)
