"""A checkpoint's ONNX graphs, for onnxruntime: `python -m benches.export_onnx CHECKPOINT`, under the peers'
interpreter.

Two of them, because either may be the faster: as exported, for the session's own optimizer to do what it can,
and with the fusions of onnxruntime's transformer optimizer (attention, embeddings, GELU, residual and norm).
"""

import argparse
import json
import shutil
from pathlib import Path

import onnx
import torch
from onnxruntime.transformers import optimizer
from transformers import AutoModelForSequenceClassification


def export(checkpoint: Path, target: Path) -> None:
    """The plain graph. Eager attention, for that is the pattern which the fusions know."""
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    # Outputs as a tuple: the tracer has no use for named ones.
    model.config.return_dict = False
    names = ["input_ids", "attention_mask"]
    ids = torch.randint(10, 1000, (2, 16))
    arguments = [ids, torch.ones_like(ids)]
    if model.config.model_type == "bert":
        names.append("token_type_ids")
        arguments.append(torch.zeros_like(ids))
    with torch.no_grad():
        torch.onnx.export(
            model,
            tuple(arguments),
            str(target),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={"logits": {0: "batch"}, **{name: {0: "batch", 1: "tokens"} for name in names}},
            opset_version=17,
            dynamo=False,
        )


def fuse(checkpoint: Path, source: Path, target: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    fused = optimizer.optimize_model(str(source), "bert", num_heads=heads, hidden_size=hidden, opt_level=0)
    attention = sum(node.op_type in ("Attention", "MultiHeadAttention") for node in fused.model.graph.node)
    print(f"fused attention of {attention} of {config['num_hidden_layers']} layers")
    fused.save_model_to_file(str(target))
    onnx.checker.check_model(str(target))


def main() -> None:
    parser = argparse.ArgumentParser(description="Exports a checkpoint to ONNX, plain and fused.")
    parser.add_argument("checkpoint", type=Path)
    checkpoint: Path = parser.parse_args().checkpoint
    partial, target = checkpoint / "onnx.partial", checkpoint / "onnx"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    export(checkpoint, partial / "plain.onnx")
    fuse(checkpoint, partial / "plain.onnx", partial / "fused.onnx")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


if __name__ == "__main__":
    main()
