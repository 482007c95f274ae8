"""An encoder of pictures whose vector is the mean colour, in files as users give them."""

import io
from pathlib import Path
from typing import Any


def write_picture_model(directory: Path, side: int = 16, **description: Any) -> Path:
    """Write a graph that returns the mean of red, green and blue."""
    import msgspec
    from onnx import TensorProto, helper

    node = helper.make_node("ReduceMean", ["pixels"], ["vectors"], axes=[2, 3], keepdims=0)
    shapes: dict[str, list[str | int | None]] = {
        "pixels": ["rows", 3, side, side],
        "vectors": ["rows", 3],
    }
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    graph = helper.make_graph([node], "colour", [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    (directory / "picture.json").write_bytes(msgspec.json.encode({"side": side, **description}))
    return directory


def plain_picture(colour: tuple[int, int, int], size: int = 16, kind: str = "PNG") -> bytes:
    """Encode a square of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, kind)
    return file.getvalue()
