"""Item vectors by two towers, trained to place the next item of a visit near the items before it.

The item tower is a table of unit vectors. The user tower is the faded sum of the items of the
present visit, which is also the query of a request (`tactful.recall.index.direction`), so the
vectors are searched and served like others, and serving needs no PyTorch. Training maximises the
sampled softmax of the next item among those of the same batch, corrected for how often each of them
is drawn (logQ: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
Recommendations", RecSys 2019). It begins with the vectors of co-occurrence.

PyTorch is imported when it is used: `pip install 'tactful[two-tower]'`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.recall.neighbours import FADE
from tactful.recall.tables import Interactions
from tactful_privacy.durable_files import replacing

if TYPE_CHECKING:
    from torch import Tensor

_CONTEXT = 20
_JUDGED = 4_000
_CUTOFF = 20
_FEWEST = 20


@dataclass(frozen=True)
class TowerOptions:
    """Options of the training of two towers."""

    passes: int = 40  # most passes; one is over `steps` steps drawn from all visits
    steps: int = 65_536  # of a pass
    patience: int = 4  # passes without improvement on the latest visits after which to stop
    batch: int = 1_024  # steps of a batch; each has the items of the others as negatives
    learning_rate: float = 0.005  # of Adam
    temperature: float = 0.1  # divisor of the inner products of unit vectors
    held_back: float = 0.05  # share of the steps, the latest, for early stopping
    threads: int = 2
    seed: int = 0  # of the order of the steps


@dataclass(frozen=True)
class Steps:
    """Every item of a visit but its first, and the items before it."""

    context: NDArray[np.int64]  # rows of the items before, latest first, -1 for none, (n, 20)
    target: NDArray[np.int64]  # row of the item, shape (n,)

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.target)

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> Steps:
        """Return a part of the steps."""
        return Steps(self.context[chosen], self.target[chosen])


def require_torch() -> None:
    """Raise ModelError if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise ModelError(
            "two-tower vectors need PyTorch, which is not installed: "
            "`pip install 'tactful[two-tower]'`, or train with --vectors co_occurrence"
        )


def learn_vectors(
    seen: Interactions,  # the visits, in time order
    start: NDArray[np.float32],
    options: TowerOptions,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float32]:
    """Improve item vectors by training on visits.

    `start`, shape (n_items, dimensions), is zero for unknown items. The result holds unit vectors
    of the items that share a visit with another, and `start` for all others; with too little to
    learn from, `start`. The file `checkpoint` keeps each pass.

    Raises:
        ModelError: if PyTorch is not installed, or the checkpoint is of another training.
    """
    require_torch()
    steps = steps_of(seen)
    border = len(steps) - int(options.held_back * len(steps))
    learn, judge = steps[:border], steps[border:][-_JUDGED:]
    if len(judge) < _FEWEST:
        return start
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        return _Towers(torch, learn, start, options).learn(judge, checkpoint, progress)
    finally:
        torch.set_num_threads(threads)


def steps_of(seen: Interactions) -> Steps:
    """Return the steps of all visits, in time order.

    An item that is among the 20 before it is left out: items of the visit are not recommended.
    """
    order = np.argsort(seen.session, kind="stable")
    session, item = seen.session[order], seen.item[order].astype(np.int64)
    context = np.full((len(item), _CONTEXT), -1, np.int64)
    for distance in range(1, min(_CONTEXT, len(item) - 1) + 1):
        same = session[distance:] == session[:-distance]
        context[distance:, distance - 1][same] = item[:-distance][same]
    fresh = (context[:, 0] >= 0) & ~(context == item[:, None]).any(1)
    chosen = np.flatnonzero(fresh)
    chosen = chosen[np.argsort(order[chosen], kind="stable")]
    return Steps(context[chosen], item[chosen])


class _Towers:
    """The table of item vectors, and its training."""

    def __init__(
        self, torch: Any, steps: Steps, start: NDArray[np.float32], options: TowerOptions
    ) -> None:
        self._torch = torch
        self._options = options
        self._steps = steps
        self._start = start
        self._met = np.zeros(len(start), np.bool_)
        self._met[steps.target] = True
        self._met[steps.context[steps.context >= 0]] = True
        # Items without a vector begin with a random one.
        drawn = np.random.default_rng(options.seed).standard_normal(start.shape, np.float32)
        first: NDArray[np.float32] = np.where(np.any(start, axis=1, keepdims=True), start, drawn)
        first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
        self._table = torch.nn.Embedding.from_pretrained(
            torch.from_numpy(first.copy()), freeze=False, sparse=True
        )
        self._optimizer = torch.optim.SparseAdam(self._table.parameters(), lr=options.learning_rate)
        self._fade = torch.tensor([FADE**place for place in range(_CONTEXT)])

    def learn(
        self, judge: Steps, checkpoint: Path | None, progress: Callable[[int, int], None]
    ) -> NDArray[np.float32]:
        """Train pass by pass, until the latest visits are not predicted better."""
        passes, patience = self._options.passes, self._options.patience
        best, best_vectors, done, waited = self._resumed(checkpoint)
        if best_vectors is None:
            best, best_vectors = self._hits(judge), self._vectors()
        learn = self._steps
        shares = np.bincount(learn.target, minlength=len(self._met)) / max(len(learn), 1)
        log_q = self._torch.from_numpy(np.log(np.maximum(shares, 1e-12)).astype(np.float32))
        while done < passes and waited < patience:
            self._pass(learn, log_q, done)
            done += 1
            hits = self._hits(judge)
            waited = 0 if hits > best else waited + 1
            if hits > best:
                best, best_vectors = hits, self._vectors()
            if checkpoint is not None:
                vectors = self._torch.from_numpy(best_vectors)
                self._keep(checkpoint, best=best, vectors=vectors, done=done, waited=waited)
            progress(done, passes)
        return best_vectors

    def _pass(self, learn: Steps, log_q: Tensor, number: int) -> None:
        options = self._options
        # Seeded by the number of the pass, so that a resumed training draws like an unbroken one.
        generator = np.random.default_rng([options.seed, number])
        order = generator.permutation(len(learn))[: options.steps]
        for begin in range(0, len(order), options.batch):
            part = learn[order[begin : begin + options.batch]]
            if len(part) < 2:
                continue
            self._optimizer.zero_grad()
            self._loss(part, log_q).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    def _loss(self, part: Steps, log_q: Tensor) -> Tensor:
        """Return the mean of -log of the sampled softmax of each target among all targets."""
        torch = self._torch
        target = torch.from_numpy(part.target)
        queries = self._queries(torch.from_numpy(part.context))
        items = torch.nn.functional.normalize(self._table(target))
        logits = queries @ items.T / self._options.temperature - log_q[target]
        # The same item in another row is no negative.
        same = target[:, None] == target[None, :]
        same.fill_diagonal_(False)
        loss: Tensor = torch.nn.functional.cross_entropy(
            logits.masked_fill(same, float("-inf")), torch.arange(len(part))
        )
        return loss

    def _queries(self, context: Tensor) -> Tensor:
        """Return the unit query vectors of requests after these items."""
        torch = self._torch
        items = torch.nn.functional.normalize(self._table(context.clamp(min=0)), dim=2)
        weights = self._fade * (context >= 0)
        queries: Tensor = torch.nn.functional.normalize((items * weights[:, :, None]).sum(1))
        return queries

    def _hits(self, judge: Steps) -> float:
        """Return the mean reciprocal rank, among the first 20, of the next items of visits."""
        torch = self._torch
        vectors = torch.from_numpy(self._vectors())
        gained = 0.0
        with torch.no_grad():
            for begin in range(0, len(judge), 256):
                part = judge[begin : begin + 256]
                scores = self._queries(torch.from_numpy(part.context)) @ vectors.T
                rows, places = np.nonzero(part.context >= 0)
                scores[rows, part.context[rows, places]] = -2.0
                own = scores.gather(1, torch.from_numpy(part.target)[:, None])
                rank = (scores > own).sum(1) + 1
                gained += float(torch.where(rank <= _CUTOFF, 1.0 / rank, 0.0).sum())
        return gained / len(judge)

    def _vectors(self) -> NDArray[np.float32]:
        table: NDArray[np.float32] = self._table.weight.detach().numpy().copy()
        table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        table[~self._met] = self._start[~self._met]
        return table

    def _resumed(
        self, checkpoint: Path | None
    ) -> tuple[float, NDArray[np.float32] | None, int, int]:
        if checkpoint is None or not checkpoint.exists():
            return 0.0, None, 0, 0
        try:
            held = self._torch.load(checkpoint, weights_only=True)
            if held["about"] != self._about():
                raise ValueError("it belongs to another history or other options")
            self._table.load_state_dict(held["table"])
            self._optimizer.load_state_dict(held["optimizer"])
            return held["best"], held["vectors"].numpy(), held["done"], held["waited"]
        except Exception as error:  # unpickling raises any error on a damaged file
            raise ModelError(
                f"{checkpoint}: cannot be resumed: {error}; `tactful train --fresh` starts again"
            ) from error

    def _keep(self, checkpoint: Path, **progress: Any) -> None:
        tables = {"table": self._table.state_dict(), "optimizer": self._optimizer.state_dict()}
        with replacing(checkpoint) as file:
            self._torch.save({"about": self._about(), **tables, **progress}, file)

    def _about(self) -> str:
        return f"{self._options} {int(self._met.sum())} of {len(self._met)}"
