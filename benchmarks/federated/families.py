"""Next-family questions of `online_retail`, the same for everybody, and who answers them.

A line's family is the first three characters of its stock code. Families that occur at least 50
times before the cut are kept, others are OTHER; BOUNDARY opens each invoice; a customer's lines
are one sequence in the order of the file. Asked is every kept family of a customer's lines from the
cut on, from the customer's lines before it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.tokens import BOUNDARY, FIRST_CATEGORY, OTHER, PAD, Windows, windows
from tactful_federated.model.vectors import Vector
from tactful_federated.simulation.baselines import fit_markov

CUT = datetime(2011, 11, 10)
EMBEDDING, HIDDEN = 64, 48
"""Widths of the model. Chosen by the questions of 2011-10-01 to 11-09, not by those asked here."""

_KEPT_FROM = 50
_SCORED, _CONTEXT = 24, 24


@dataclass(frozen=True)
class Rates:
    """Shares of answers ranked first and among the first five."""

    top1: float
    top5: float
    steps: int


@dataclass(frozen=True)
class Families:
    """Sequences before and from the cut on, by customer, and the vocabulary's size."""

    before: Mapping[int, NDArray[np.int64]]
    after: Mapping[int, NDArray[np.int64]]
    size: int

    def training(self) -> dict[int, Windows]:
        """What each device trains on; those without a question are left out."""
        cut = {
            number: windows(tokens, scored=_SCORED, context=8)
            for number, tokens in self.before.items()
        }
        return {number: asked for number, asked in cut.items() if asked.steps}

    def asked(self, customers: int | None = None) -> Windows:
        """The questions of the first so many customers, or of all."""
        none = np.zeros(0, dtype=np.int64)
        parts = []
        for number in list(self.after)[:customers]:
            past = self.before.get(number, none)
            tokens = np.concatenate([past, self.after[number]])
            start = len(past) + 1  # the first token opens an invoice, and is not asked
            parts.append(windows(tokens, start=start, scored=_SCORED, context=_CONTEXT))
        return Windows(
            np.concatenate([p.inputs for p in parts]), np.concatenate([p.answers for p in parts])
        )


def bought_lines(path: Path) -> pd.DataFrame:
    """Read the lines that known customers bought, each with its family."""
    columns = ["customer_id", "invoice_no", "invoice_ts", "stock_code", "quantity"]
    lines = pd.read_parquet(path, columns=columns)
    bought = lines["customer_id"].notna() & (lines["quantity"] > 0)
    lines = lines[bought & ~lines["invoice_no"].astype(str).str.startswith("C")]
    lines = lines.assign(family=lines["stock_code"].astype(str).str.slice(0, 3))
    return lines


def load(path: Path) -> Families:
    """Read the sequences."""
    lines = bought_lines(path)
    is_before = lines["invoice_ts"] < CUT
    counts = lines["family"][is_before].value_counts()
    kept = [str(family) for family in counts[counts >= _KEPT_FROM].index]
    tokens = {family: token for token, family in enumerate(kept, FIRST_CATEGORY)}
    lines = lines.assign(token=lines["family"].map(tokens).fillna(OTHER).astype(int))
    before, after = _sequences(lines[is_before]), _sequences(lines[~is_before])
    return Families(before, after, len(kept) + FIRST_CATEGORY)


def _sequences(lines: pd.DataFrame) -> dict[int, NDArray[np.int64]]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    invoices = lines.groupby(["customer_id", "invoice_no"], sort=False)["token"].agg(list)
    for (customer, _), tokens in zip(invoices.index.tolist(), invoices.tolist(), strict=True):
        found[int(customer)] += [BOUNDARY, *tokens]
    return {customer: np.array(sequence) for customer, sequence in found.items()}


def category_chain(families: Families, questions: Windows) -> Rates:
    """The answers of the chain that reads the last category, also across invoices."""
    score = fit_markov(families.before.values()).evaluate(questions)
    return Rates(score.top1_rate, score.top5_rate, score.steps)


def token_chain(families: Families, customers: int | None = None) -> Rates:
    """A first-order chain of tokens, which reads the boundary of an invoice instead of a category.

    The baseline of earlier runs, for comparison with them.
    """
    follows: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for sequence in families.before.values():
        for one, next_one in pairwise(sequence.tolist()):
            follows[one][next_one] += 1
    ranked = {
        token: [t for t, _ in counts.most_common(8) if t != BOUNDARY][:5]
        for token, counts in follows.items()
    }
    steps = top1 = top5 = 0
    for number in list(families.after)[:customers]:
        for one, next_one in pairwise(families.after[number].tolist()):
            if next_one > OTHER:
                steps += 1
                top1 += ranked.get(one, [0])[:1] == [next_one]
                top5 += next_one in ranked.get(one, [])
    return Rates(top1 / steps, top5 / steps, steps)


def judge(model: IntentModel, questions: Windows) -> Rates:
    """The model's answers."""
    hits1 = hits5 = steps = 0
    with torch.no_grad():
        for first in range(0, len(questions.inputs), 256):
            inputs = torch.from_numpy(questions.inputs[first : first + 256])
            answers = torch.from_numpy(questions.answers[first : first + 256])
            asked = answers != PAD
            truth = answers[asked] - FIRST_CATEGORY
            ranked = model(inputs, asked).topk(5, dim=1).indices == truth[:, None]
            hits1, hits5 = hits1 + int(ranked[:, 0].sum()), hits5 + int(ranked.sum())
            steps += len(truth)
    return Rates(hits1 / steps, hits5 / steps, steps)


def new_model(size: int, *, seed: int = 0) -> IntentModel:
    """The model that everybody trains, for a vocabulary of `size` tokens."""
    return IntentModel(size, embedding=EMBEDDING, hidden=HIDDEN, seed=seed)


def judge_weights(weights: Vector, size: int, questions: Windows) -> Rates:
    """The answers of a model given as a vector."""
    model = new_model(size)
    model.load_vector(weights)
    return judge(model, questions)


def train_centrally(
    families: Families, *, seed: int, epochs: int, rows: int = 64, rate: float = 3e-3
) -> IntentModel:
    """The same model on everybody's windows in one place, by Adam."""
    parts = list(families.training().values())
    inputs = torch.from_numpy(np.concatenate([p.inputs for p in parts]))
    answers = torch.from_numpy(np.concatenate([p.answers for p in parts]))
    model = new_model(families.size, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    shuffle = np.random.default_rng(seed)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - epoch / epochs)
        for chosen in torch.split(torch.from_numpy(shuffle.permutation(len(inputs))), rows):
            asked = answers[chosen] != PAD
            optimizer.zero_grad()
            logits = model(inputs[chosen], asked)
            loss = functional.cross_entropy(logits, answers[chosen][asked] - FIRST_CATEGORY)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model
