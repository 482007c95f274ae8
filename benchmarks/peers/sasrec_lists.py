"""Recommendations by SASRec of `rectools`; run by a Python that has it.

Usage: ``python sasrec_lists.py INPUT OUTPUT MINUTES``. INPUT is the ``.npz`` of
`benchmarks.quality.sequence_models`: items of the training sequences and of the questions one after
the other, and how long each is. OUTPUT gets item numbers, best first, -1 where a list ends early.

Kang and McAuley, "Self-attentive sequential recommendation" (ICDM 2018).
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from pytorch_lightning import Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

CUTOFF = 20
LONGEST = 50


def frame(flat: np.ndarray, sizes: np.ndarray) -> pd.DataFrame:
    """Return sequences as interactions; a sequence is a user."""
    places = np.arange(len(flat))
    return pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(sizes)), sizes),
            Columns.Item: flat,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2020-01-01") + pd.to_timedelta(places, unit="s"),
        }
    )


def main(source: Path, target: Path, minutes: float) -> None:
    """Train for some minutes at most, and answer."""
    with np.load(source) as arrays:
        learned = frame(arrays["visits"], arrays["visit_sizes"])
        sizes = arrays["question_sizes"]
        asked = frame(arrays["questions"], sizes)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=100,
            max_time=dt.timedelta(minutes=minutes),
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        n_factors=64,
        n_blocks=2,
        n_heads=2,
        session_max_len=LONGEST,
        dropout_rate=0.2,
        lr=1e-3,
        batch_size=128,
        loss="softmax",
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(learned))
    asked = asked[asked[Columns.Item].isin(learned[Columns.Item].unique())]
    users = asked[Columns.User].unique()
    answers = model.recommend(
        users, Dataset.construct(asked), k=3 * CUTOFF, filter_viewed=False
    ).sort_values([Columns.User, Columns.Rank])
    lists = np.full((len(sizes), 3 * CUTOFF), -1, np.int64)
    for user, items in answers.groupby(Columns.User)[Columns.Item]:
        lists[int(user), : len(items)] = items.to_numpy()
    np.save(target, lists)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
