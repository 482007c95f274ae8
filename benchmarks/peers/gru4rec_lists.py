"""Recommendations by GRU4Rec of `recbole`; run by a Python that has it.

Usage and files are those of `sasrec_lists.py`. The model and its loss are recbole's; the loop is
plain, since recbole's own reads files and stops after epochs, not after minutes.

Hidasi et al., "Session-based recommendations with recurrent neural networks" (ICLR 2016).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from recbole.model.sequential_recommender import GRU4Rec

CUTOFF = 20
LONGEST = 50
BATCH = 256
EPOCHS = 100
CONFIG = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "item",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "length",
    "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": LONGEST,
    "device": torch.device("cpu"),
    "embedding_size": 64,
    "hidden_size": 128,
    "num_layers": 1,
    "dropout_prob": 0.3,
    "loss_type": "CE",
}


def padded(flat: np.ndarray, ends: np.ndarray, starts: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the items from each start to each end, at most the latest, as recbole's input."""
    starts = np.maximum(starts, ends - LONGEST)
    places = starts[:, None] + np.arange(LONGEST)[None, :]
    inside = places < ends[:, None]
    items = np.where(inside, flat[np.minimum(places, len(flat) - 1)] + 1, 0)  # 0 is the padding
    return {"item_list": torch.from_numpy(items), "length": torch.from_numpy(ends - starts)}


def main(source: Path, target: Path, minutes: float) -> None:
    """Train for some minutes at most, and answer."""
    end = time.monotonic() + minutes * 60
    with np.load(source) as arrays:
        visits, visit_sizes = arrays["visits"], arrays["visit_sizes"]
        questions, sizes = arrays["questions"], arrays["question_sizes"]
    items = int(max(visits.max(), questions.max(initial=0))) + 2
    torch.manual_seed(0)
    model = GRU4Rec(CONFIG, SimpleNamespace(num=lambda field: items))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    # Each place of a visit but the first is predicted from what came before it.
    begins = np.repeat(np.cumsum(visit_sizes) - visit_sizes, visit_sizes)
    targets = np.flatnonzero(np.arange(len(visits)) > begins)
    generator = np.random.default_rng(0)
    for _ in range(EPOCHS):
        for rows in np.array_split(generator.permutation(targets), max(1, len(targets) // BATCH)):
            batch = padded(visits, rows, begins[rows])
            batch["item"] = torch.from_numpy(visits[rows] + 1)
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
        if time.monotonic() > end:
            break
    model.eval()
    ends = np.cumsum(sizes)
    lists = np.full((len(sizes), 3 * CUTOFF), -1, np.int64)
    count = min(3 * CUTOFF, items - 1)
    known = np.flatnonzero(sizes)
    with torch.no_grad():
        for rows in np.array_split(known, max(1, len(known) // BATCH)):
            scores = model.full_sort_predict(padded(questions, ends[rows], (ends - sizes)[rows]))
            lists[rows, :count] = scores[:, 1:].topk(count).indices.numpy()
    np.save(target, lists)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
