"""A sentence encoder of a few hundred random weights, in files as users give them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tactful.understanding.bert_graph import Weights, bert_to_onnx

WIDTH, HEADS, WORDS, PLACES = 8, 2, 40, 16


def random_weights(seed: int = 0, layers: int = 2) -> Weights:
    draw = np.random.default_rng(seed)

    def tensor(*shape: int) -> NDArray[np.float32]:
        return draw.normal(0.0, 0.3, shape).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": tensor(WORDS, WIDTH),
        "embeddings.position_embeddings.weight": tensor(PLACES, WIDTH),
        "embeddings.token_type_embeddings.weight": tensor(2, WIDTH),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{number}" for number in range(layers)):
        dense = {
            **{f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")},
            "attention.output.dense": (WIDTH, WIDTH),
            "intermediate.dense": (2 * WIDTH, WIDTH),
            "output.dense": (WIDTH, 2 * WIDTH),
        }
        for name, shape in dense.items():
            weights[f"{layer}.{name}.weight"] = tensor(*shape)
            weights[f"{layer}.{name}.bias"] = tensor(shape[0])
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        weights[f"{name}.weight"] = 1.0 + tensor(WIDTH)
        weights[f"{name}.bias"] = tensor(WIDTH)
    return weights


def write_model(directory: Path, seed: int = 0) -> Path:
    """Write the model, with a tokenizer of shoes and w0 … w29; of ``w3_17`` it reads ``w3``."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Replace
    from tokenizers.pre_tokenizers import Whitespace

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(bert_to_onnx(random_weights(seed), HEADS))
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{number}": number + 2 for number in range(30)}}
    words["shoes"] = len(words)
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.normalizer = Replace(Regex("_[0-9]+"), "")
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(PLACES)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory
