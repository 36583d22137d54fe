"""Pictures of a comparison, as the bytes of PNG files."""

from collections.abc import Mapping, Sequence
import io

import numpy as np

from melody_jax import audio_io
from melody_jax.evaluation.systems.compare import Distance

GENERATED, REFERENCE = "#c2410c", "#1d4ed8"
_SPECTROGRAM_COLUMNS = 480
_COLUMNS = 3  # panels side by side


def _png(figure) -> bytes:
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=90)
  return buffer.getvalue()


def _figure(panels: int):
  from matplotlib.figure import Figure

  columns, rows = min(panels, _COLUMNS), -(-panels // _COLUMNS)
  figure = Figure(figsize=(4.0 * columns, 3.0 * rows), layout="constrained")
  return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]


def spectrogram(audio: np.ndarray, sample_rate: int) -> bytes:
  """The log-mel spectrogram of audio [samples] without axes, 128 pixels high."""
  from matplotlib import image

  decibels = audio_io.mel_decibels(audio, sample_rate)
  # Columns are averaged, not dropped: a short note must not vanish.
  columns = min(_SPECTROGRAM_COLUMNS, decibels.shape[1])
  edges = np.linspace(0, decibels.shape[1], columns + 1).astype(int)[:-1]
  widths = np.diff(np.append(edges, decibels.shape[1]))
  picture = np.add.reduceat(decibels, edges, axis=1) / widths[None, :]
  buffer = io.BytesIO()
  image.imsave(buffer, picture, vmin=-80, vmax=20, cmap="magma", origin="lower", format="png")
  return buffer.getvalue()


def distributions(
  generated: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> bytes:
  """Histograms of some numbers of the clips of both sets, side by side.

  Args:
    generated: {title: values [clips]}; what is not finite is left out.
    reference: The same of the reference, with the same titles.
  """
  figure, panels = _figure(max(len(generated), 1))
  for axes, title in zip(panels, generated, strict=False):
    values = [np.asarray(x[title], float) for x in (generated, reference)]
    values = [x[np.isfinite(x)] for x in values]
    both = np.concatenate(values)
    if not len(both):
      axes.set_axis_off()
      continue
    bins = np.histogram_bin_edges(both, bins=min(24, max(6, len(both) // 3)))
    for x, colour, name in zip(values, (GENERATED, REFERENCE), ("generated", "reference")):
      if len(x):
        # Shares, not counts: the sets may differ in size.
        axes.hist(
          x, bins, weights=np.full(len(x), 1 / len(x)), alpha=0.55, color=colour, label=name
        )
        axes.axvline(float(x.mean()), color=colour, lw=1.2)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
  filled = [axes for axes in panels if axes.has_data()]
  for axes in filled[:1]:
    axes.set_ylabel("share of clips", fontsize=8)
    axes.legend(fontsize=7)
  return _png(figure)


def extrapolations(distances: Mapping[str, Distance]) -> bytes:
  """FAD against 1 / clips with its line to infinitely many, a panel an embedding."""
  lines = {name: found.infinity for name, found in distances.items() if found.infinity}
  figure, panels = _figure(max(len(lines), 1))
  for axes, (name, line) in zip(panels, lines.items(), strict=False):
    x = 1.0 / np.array(line.counts)
    axes.plot(x, line.values, "o", color=GENERATED, ms=4)
    ends = np.array([0.0, x.max()])
    axes.plot(ends, line.limit + line.slope * ends, "-", color=GENERATED, lw=1)
    axes.plot([0.0], [line.limit], "s", color="black", ms=5)
    axes.set_title(f"{name}: FAD-infinity {line.limit:.3g} (r² {line.r_squared:.2f})", fontsize=9)
    axes.set_xlabel("1 / clips", fontsize=8)
    axes.tick_params(labelsize=7)
  return _png(figure)


def maps(vectors: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> bytes:
  """Clips along the two widest axes of the reference, a panel an embedding.

  Args:
    vectors: (name, means of the generated clips [N, D], means of the reference's [M, D]).
  """
  figure, panels = _figure(max(len(vectors), 1))
  for axes, (name, ours, real) in zip(panels, vectors, strict=False):
    centre = real.mean(axis=0, keepdims=True)
    # Of the reference alone where it spans a plane: the map must not follow the system.
    basis = real if len(real) > 2 else np.concatenate([real, ours])
    directions = np.linalg.svd(basis - centre, full_matrices=False)[2][:2]
    for x, colour, label in ((real, REFERENCE, "reference"), (ours, GENERATED, "generated")):
      flat = (x - centre) @ directions.T
      flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
      axes.plot(flat[:, 0], flat[:, 1], "o", color=colour, ms=3, alpha=0.7, label=label)
    axes.set_title(f"{name}: clips along the reference's widest axes", fontsize=9)
    axes.tick_params(labelsize=7)
  panels[0].legend(fontsize=7)
  return _png(figure)
