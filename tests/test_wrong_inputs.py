"""Whatever is wrong with a command's input ends in one line, a status that is not 0, no traceback.

One table over all commands. Most rows run in this process, which costs milliseconds; rows that need
devices of their own, or show the whole way through `python -m`, are real processes.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from melody_jax import cli, encode, evaluate, export, export_sampler, fit, plan, sample, train
from melody_jax.input_pipeline.shards import Feature, ShardWriter

COMMANDS = {
  "train": (train.main, {"needs_workdir": True}),
  "export": (export.export, {"needs_workdir": True}),
  "encode": (encode.main, {}),
  "fit": (fit.fit, {}),
  "evaluate": (evaluate.evaluate, {}),
  "sample": (sample.sample, {}),
  "plan": (plan.main, {"strings": plan.FLAGS, "switches": plan.SWITCHES}),
  "export_sampler": (export_sampler.main, {"strings": {"out": "", "platforms": ""}}),
}

# (command and its arguments, what the line says). {tmp} is an empty directory, {data} an array
# dataset of two seconds of audio.
ROWS = [
  # The command line itself.
  ("train --config=configs/dpd.py:small --workdir={tmp}", "'small'; it must be one of paper, nano"),
  ("train --config=configs/vae.py:big --workdir={tmp}", "'big'; it must be one of paper, nano"),
  ("export --config=configs/mulan.py:nan --workdir={tmp}", "'nan'; it must be one of paper, nano"),
  ("fit --config=configs/fit.py:semantics", "one of semantic, style, prior, latents, axes"),
  (
    "evaluate --config=configs/evaluate.py:codecs",
    "one of codec, tokens, mulan, dpd, prompts",
  ),
  ("encode --config=configs/encode.py:nano", "takes no preset"),
  ("train --config=configs/dqd.py --workdir={tmp}", "no config file 'configs/dqd.py'"),
  ("train --config configs/dqd.py --workdir={tmp}", "no config file 'configs/dqd.py'"),
  ("train --workdir={tmp}", "--config=FILE is missing"),
  ("train --config=configs/dpd.py:tiny", "--workdir=DIR is missing"),
  (
    "train --config=configs/dpd.py:tiny --workdir={tmp} --config.train.step=3",
    "did you mean 'step",
  ),
  ("train --config=configs/dpd.py:tiny --workdir={tmp} --config.train.steps=ten", "steps"),
  ("sample --config=configs/sample.py --config.prompt=a --config.guidance_scale=loud", "loud"),
  ("encode --config=configs/encode.py stray", "unexpected argument 'stray'"),
  # The page of another command.
  *(
    (line, f"names a page for another command: it has no config.{key}")
    for line, key in [
      ("train --config=configs/sample.py --workdir={tmp}", "task"),
      ("export --config=configs/evaluate.py:codec --workdir={tmp}", "task"),
      ("encode --config=configs/lm.py:tiny", "source"),
      ("fit --config=configs/evaluate.py:codec", "windows"),
      ("evaluate --config=configs/fit.py:style", "codec"),
      ("sample --config=configs/dpd.py:tiny", "mode"),
      ("export_sampler --config=configs/dpd.py:tiny --out={tmp}/x.sampler", "mode"),
    ]
  ),
  # train: numbers, names, sizes that do not go together, data.
  *(
    (f"train --config=configs/{config} --workdir={{tmp}} --config.{setting}", expected)
    for config, setting, expected in [
      ("dpd.py:tiny", "train.steps=0", "config.train.steps is 0; it takes 1 or more"),
      ("dpd.py:tiny", "train.batch_size=0", "config.train.batch_size is 0"),
      ("dpd.py:tiny", "train.log_every=0", "config.train.log_every is 0"),
      ("dpd.py:tiny", "train.save_every=-5", "config.train.save_every is -5"),
      ("dpd.py:tiny", "train.eval_every=-1", "config.train.eval_every is -1; it takes 0 or more"),
      ("dpd.py:tiny", "train.accumulate=3", "config.train.accumulate 3 must divide"),
      ("dpd.py:tiny", "train.ema_decay=1.5", "config.train.ema_decay is 1.5"),
      ("dpd.py:tiny", "train.on_nonfinite=panic", "'panic'; it must be one of stop, skip"),
      ("dpd.py:tiny", "optimizer.learning_rate=nan", "config.optimizer.learning_rate is nan"),
      ("dpd.py:tiny", "seed=-1", "config.seed is -1"),
      ("dpd.py:tiny", "task=dqd", "config.task is 'dqd'"),
      ("dpd.py:tiny", "mesh.data=0", "a size is at least 1, or -1"),
      ("dpd.py:tiny", "mesh.fsdp=7", "config.mesh"),
      ("dpd.py:tiny", "loss.weighting=speed", "'speed'; it must be one of velocity, unit"),
      ("dpd.py:tiny", "conditioning.drop=2.0", "config.conditioning.drop is 2; it takes 0 to 1"),
      ("dpd.py:tiny", "model.segment_size=7", "segment_size 7 is odd"),
      ("dpd.py:tiny", "model.n_heads=0", "n_heads is 0; it takes 1 or more"),
      ("dpd.py:tiny", "model.width=-32", "width is -32"),
      ("dpd.py:tiny", "model.dtype=float33", "'float33'; it must be one of float32, bfloat16"),
      ("dpd.py:tiny", "data.source=web", "'web'; it must be one of grain, seqio"),
      ("lm.py:tiny", "model.head=both", "head is 'both'"),
      ("lm.py:tiny", "model.remat=some", "remat is 'some'"),
      ("lm.py:tiny", "conditioning.style_dropout=-1.0", "style_dropout is -1"),
      ("vae.py:tiny", "window_seconds=0.9601", "not a multiple of the model's hop 480"),
      ("vae.py:tiny", "model.decoder=wavenet", "decoder is 'wavenet': one of frame, hifigan"),
      ("mulan.py:tiny", "model.music_heads=3", "music_width 16 must be a multiple of music_heads"),
      ("vae.py:tiny", "window_seconds=0.0", "config.window_seconds is 0"),
      ("mulan.py:tiny", "model.text_pooling=max", "'max': it must be 'pooler', 'cls' or 'mean'"),
      ("mulan.py:tiny", "model.music_front=bark", "music_front 'bark': it must be one of log_mel"),
      ("mulan.py:tiny", "model.n_fft=512", "win_length 960 is longer than n_fft 512"),
      ("mulan.py:tiny", "data.path={data} --config.model.text_init={tmp}", "no tokenizer at {tmp}"),
      ("wav2vec.py:tiny", "model.kernel_size=4", "kernel_size 4 must be odd"),
      ("dpd.py:tiny", "data.path=", "config.data.path is empty"),
      ("dpd.py:tiny", "data.path={tmp}/none", "{tmp}/none"),
      ("vae.py:tiny", "data.path={data} --config.data.weights=much", "takes numbers with commas"),
      ("vae.py:tiny", "data.path={data} --config.data.weights=1,2", "2 numbers for 1 datasets"),
      (
        "vae.py:tiny",
        "data.path={data} --config.optimizer.schedule=cosin",
        "cosine, linear",
      ),
      ("vae.py:tiny", "data.path={data} --config.optimizer.name=sgd", "one of adamw, muon"),
      ("dpd.py:tiny", "data.path={data}", ", split train, lacks latents, semantic_tokens"),
    ]
  ),
  # export, fit, encode, evaluate.
  ("export --config=configs/dpd.py:tiny --workdir={tmp}", "--config.export.bundle=DIR is missing"),
  (
    "export --config=configs/dpd.py:tiny --workdir={tmp}/none --config.export.bundle={tmp}",
    "no checkpoints under",
  ),
  (
    "export --config=configs/dpd.py:tiny --workdir={tmp} --config.export.dtype=int8",
    "'int8'; it must be one of float16, float32",
  ),
  ("fit --config=configs/fit.py:style --config.windows=0", "config.windows is 0"),
  ("fit --config=configs/fit.py:style --config.bundle={tmp}", "no checkpoint at {tmp}"),
  ("fit --config=configs/fit.py:style --config.what=tempo", "config.what is 'tempo'"),
  ("encode --config=configs/encode.py --config.out={tmp}/x", "--config.source=DIR is missing"),
  (
    "encode --config=configs/encode.py --config.source={data} --config.out={tmp}/x"
    " --config.features=tempo",
    "'tempo'; it must be one of audio, style_tokens",
  ),
  (
    "encode --config=configs/encode.py --config.source={data} --config.out={tmp}/x"
    " --config.shards=0",
    "config.shards is 0",
  ),
  (
    "encode --config=configs/encode.py --config.source={data} --config.out={tmp}/x"
    " --config.bundle={tmp}",
    "no checkpoint at {tmp}",
  ),
  (
    "encode --config=configs/encode.py --config.source={tmp}/none --config.out={tmp}/x"
    " --config.features=audio",
    "{tmp}/none",
  ),
  (
    "encode --config=configs/encode.py --config.source={data} --config.out={data}/train/x"
    " --config.features=audio",
    "lie one inside the other",
  ),
  (
    "encode --config=configs/encode.py --config.source={data} --config.out={tmp}/x"
    " --config.features=audio --config.splits=nope",
    "has no split nope (config.splits): it has train",
  ),
  (
    "train --config=configs/vae.py:tiny --workdir=README.md --config.data.path={data}",
    "--workdir README.md is a file",
  ),
  (
    "evaluate --config=configs/evaluate.py:codec --config.bundle={tmp} --config.data=a=",
    "no dataset directory ''",
  ),
  ("evaluate --config=configs/evaluate.py:codec --config.bundle={tmp}/none", "no bundle directory"),
  (
    "evaluate --config=configs/evaluate.py:codec --config.bundle={tmp} --config.data={data}",
    "no checkpoint at {tmp}",
  ),
  (
    "evaluate --config=configs/evaluate.py:dpd --config.bundle={tmp} --config.batch_size=0",
    "config.batch_size is 0",
  ),
  # sample and its kin; tests/test_sample_errors.py has many more.
  ("sample --config=configs/sample.py --config.out={tmp}/x.wav", "the prompt is empty"),
  *(
    (
      f"sample --config=configs/sample.py --config.prompt=a --config.out={{tmp}}/x.wav {setting}",
      expected,
    )
    for setting, expected in [
      ("--config.solver=euler", "config.solver is 'euler'; it must be one of ddim, ab2"),
      ("--config.schedule=cubic", "config.schedule is 'cubic'; it must be one of linear, uniform"),
      ("--config.seed=4294967296", "config.seed is 4294967296"),
      ("--config.seed=4294967295 --config.count=2", "config.seed is 4294967295; with config.count"),
      ("--config.steps=101", "config.steps is 101; it takes 1 to 100"),
      ("--config.lm.top_k=-1", "config.lm.top_k is -1"),
      ("--config.checkpoint={tmp}", "no checkpoint at {tmp}"),
    ]
  ),
  ("plan --config=configs/lm.py:tiny", "--topology=NAME is missing"),
  ("plan --config=configs/lm.py:tiny --topology=v9:2x2", "topology 'v9:2x2'"),
  ("plan --config=configs/lm.py:tiny --topology=v5e:4", "a slice of v5e has 2 dimension(s)"),
  (
    "plan --config=configs/lm.py:tiny --topology=cpu:2 --preset=tiny",
    "a training config names",
  ),
  ("plan --config=configs/lm.py:tiny --topology=cpu:2 --config.train.steps=0", "train.steps is 0"),
  ("plan --config=configs/lm.py:tiny --topology=cpu:2 --out=x.txt", "must end in one of .json"),
  ("plan --config=configs/sample.py --topology=cpu:1 --config.count=0", "config.count is 0"),
  ("plan --config=configs/encode.py --topology=cpu:2", "must be a training config"),
  ("plan --config=configs/lm.py:tiny --topology=v5e:2x2 --slices=two", "--slices=two: a number of"),
  ("plan --config=configs/sample.py --topology=v5e:2x2 --slices=2", "goes with a training config"),
  ("plan --config=configs/sample.py --topology=cpu:2 --search", "--search goes with a training"),
  ("export_sampler --config=configs/sample.py --config.prompt=a", "--out=FILE.sampler is missing"),
  (
    "export_sampler --config=configs/sample.py --config.prompt=a --out={tmp}/x.sampler"
    " --platforms=abacus",
    "it takes some of cpu,cuda,tpu",
  ),
]

PROCESSES = [
  (
    "train --config=configs/vae.py:tiny --workdir={tmp} --config.data.path={data}"
    " --config.train.batch_size=3",
    "3 does not divide over 2 data-parallel devices",
  ),
  ("plan --config=configs/sample.py --topology=cpu:1 --preset=small", "'small'; it must be one of"),
  ("train --config=configs/dpd.py:small --workdir={tmp}", "'small'; it must be one of paper, nano"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  for split in ("train", "validation"):
    writer = ShardWriter(root, split, 0, 1, {"audio": Feature(24_000, "int16")})
    writer.write({"id": "a", "captions": ["a tone"]}, {"audio": np.zeros(48_000, np.int16)})
    writer.close()
  return root


def _assert_one_line(status, errors: str, expected: str) -> None:
  assert status not in (0, None)
  assert "Traceback" not in errors
  lines = [line for line in errors.splitlines() if not line.startswith("[")]  # progress
  assert len(lines) == 1, errors
  assert ": error: " in lines[0] and expected in lines[0]


@pytest.mark.parametrize(("line", "expected"), ROWS, ids=[line for line, _ in ROWS])
def test_one_line(line, expected, data, tmp_path, repository, monkeypatch, capsys):
  monkeypatch.chdir(repository)
  command, *arguments = line.format(tmp=tmp_path, data=data).split(" ")
  monkeypatch.setattr(sys, "argv", [command, *arguments])
  main, options = COMMANDS[command]
  with pytest.raises(SystemExit) as exit_:
    cli.run(main, **options)
  _assert_one_line(exit_.value.code, capsys.readouterr().err, expected.format(tmp=tmp_path))


@pytest.mark.parametrize(("line", "expected"), PROCESSES, ids=[line for line, _ in PROCESSES])
def test_one_line_of_a_process(line, expected, data, tmp_path, repository):
  command, *arguments = line.format(tmp=tmp_path, data=data).split(" ")
  done = subprocess.run(
    [sys.executable, "-m", f"melody_jax.{command}", *arguments],
    cwd=repository,
    env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    capture_output=True,
    text=True,
    check=False,
  )
  _assert_one_line(done.returncode, done.stderr, expected)


def test_the_table_is_wide():
  assert len(ROWS) >= 25 and {line.split(" ")[0] for line, _ in ROWS} == set(COMMANDS)
