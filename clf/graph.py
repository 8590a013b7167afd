"""What an exported graph computes, and how it is written: the network with as much around it as is wanted inside."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from clf.errors import UserError, first_line
from clf.exported import INPUT, METADATA, OUTPUT, PROBABILITIES, Embed
from clf.preprocess import Preprocessing

OPSET: Final = 20


class Graph(nn.Module):
    """A network as it is exported.

    Args:
        network: Maps normalised images (N, 3, H, W) to logits (N, C).
        preprocessing: What the network was trained with.
        embed: ``none``: normalised floats (N, 3, H, W) in, logits out. ``normalize``: floats in [0, 1] in, logits out.
            ``full``: 8-bit RGB pixels (N, H, W, 3) in, calibrated probabilities out.
        temperature: By which logits are divided in ``full``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, preprocessing: Preprocessing, embed: Embed, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.embed = embed
        self.temperature = temperature
        self.size = preprocessing.size
        self.register_buffer("mean", torch.tensor(preprocessing.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(preprocessing.std)[:, None, None])

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the graph's input is called so
        """Map the graph's input to its output."""
        if self.embed == "none":
            return self.network(input)  # type: ignore[no-any-return]
        unit = input if self.embed == "normalize" else input.permute(0, 3, 1, 2).float() / 255
        logits: Tensor = self.network((unit - self.mean) / self.std)
        return logits if self.embed == "normalize" else (logits / self.temperature).softmax(1)

    @property
    def output(self) -> str:
        """What the graph's output is called."""
        return PROBABILITIES if self.embed == "full" else OUTPUT

    def example(self) -> Tensor:
        """Make an input of two images: a batch of one would become a constant of the graph."""
        height, width = self.size
        if self.embed == "full":
            return torch.zeros(2, height, width, 3, dtype=torch.uint8)
        return torch.zeros(2, 3, height, width)


def write_onnx(graph: Graph, path: Path, *, metadata: Mapping[str, Any]) -> None:
    """Trace a graph and write it as one file, with what the file has to say about itself.

    Args:
        graph: On the CPU, in evaluation mode.
        path: The file.
        metadata: Primitives.
    Raises:
        UserError: If the network does what ONNX has no word for, or depends on the number of images.
    """
    import onnx

    try:
        program = torch.onnx.export(
            graph,
            (graph.example(),),
            input_names=[INPUT],
            output_names=[graph.output],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = first_line(error.__cause__ or error)
        name = type(graph.network).__name__
        raise UserError(f"network {name} cannot be written as ONNX: {reason}; change it, or take another") from error
    assert program is not None, "the exporter returns a program unless it is told to write a file"
    model = program.model_proto
    onnx.checker.check_model(model)
    save(model, path, metadata=metadata)


def save(model: Any, path: Path, *, metadata: Mapping[str, Any]) -> None:
    """Write an ONNX model with its metadata."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata, allow_nan=False)})
    onnx.save_model(model, path)
