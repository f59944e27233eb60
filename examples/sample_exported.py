"""Sample from what `shala export` wrote, with torch alone: python sample_exported.py exported 8 [photo=x.npy ...].

x.npy holds rows of one modality, as its plugin reads them. Files NAME.npy get the samples of each modality.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch

folder, num_samples = Path(sys.argv[1]), int(sys.argv[2])
about = json.loads((folder / "export.json").read_text())
call = {name: torch.export.load(folder / program["file"]).module() for name, program in about["programs"].items()}
names = [modality["name"] for modality in about["modalities"]]

x = {name: torch.from_numpy(np.load(file)) for name, file in (text.split("=", 1) for text in sys.argv[3:])}
num_rows = num_samples * (len(next(iter(x.values()))) if x else 1)
h, given = torch.zeros(num_rows, len(names), about["feature_dim"]), torch.zeros(num_rows, len(names), dtype=torch.bool)
for name, value in x.items():
    h[:, names.index(name)] = call[f"encode_{name}"](value).repeat_interleave(num_samples, 0)
    given[:, names.index(name)] = True

with torch.no_grad():
    cluster = torch.multinomial(call["clusters"](h, given).exp(), 1)[:, 0]
    temperature = about["sampling"]["temperature"]
    terms = torch.tensor(temperature["squares"])[given.sum(1)]
    squares = terms[:, 0] + (terms[:, 1:] * given).sum(1)
    lowest, highest = temperature["lowest"], temperature["highest"]
    y = squares.clamp(lowest**2, highest**2).sqrt()[:, None] * torch.randn(num_rows, about["latent_dim"])
    sigmas = about["sampling"]["sigmas"]
    for a, b in itertools.pairwise(sigmas):  # Heun's method
        slope = (y - call["denoise"](y, torch.full((num_rows,), a), h, given, cluster)) / a
        following = y + (b - a) * slope
        if b > 0:
            end = (following - call["denoise"](following, torch.full((num_rows,), b), h, given, cluster)) / b
            following = y + (b - a) * (slope + end) / 2
        y = following
    for name in names:
        np.save(f"{name}.npy", call[f"decode_{name}"](call["restore"](y, cluster)).numpy())
