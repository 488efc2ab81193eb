"""Plot the losses of the last training run: training_log.json -> loss.png. This script alone needs matplotlib.

python weights/demo/plot.py
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
log = json.loads((HERE / "training_log.json").read_text())
steps = [entry["step"] for entry in log]

figure, axes = plt.subplots(figsize=(8, 4.5), dpi=100, layout="constrained")
axes.plot(steps, [entry["train"] for entry in log], "o-", color="#999999", label="training (mean since the last point)")
axes.plot(steps, [entry["held_out"] for entry in log], "o-", color="#c2410c", label="held-out combinations")
last = log[-1]
axes.annotate(
    f"{last['held_out']:.3f}", (last["step"], last["held_out"]), xytext=(0, 10), textcoords="offset points", ha="center"
)
axes.set(xlabel="step", ylabel="loss (nats per token)", yscale="log", title="Learning to tell stories")
ticks = [0.5, 1, 2, 4]
axes.set_yticks(ticks, [str(tick) for tick in ticks])
axes.minorticks_off()
axes.grid(alpha=0.3)
axes.legend(frameon=False)
figure.savefig(HERE / "loss.png")
