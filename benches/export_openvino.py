"""A checkpoint as OpenVINO converts it from PyTorch: `python -m benches.export_openvino CHECKPOINT`, under
the peers' interpreter.

OpenVINO reads the ONNX graph too; either may be the faster, for from PyTorch it gets attention as one
operator.
"""

import argparse
import shutil
from pathlib import Path

import openvino  # type: ignore[import-not-found, unused-ignore]
import torch
from transformers import AutoModelForSequenceClassification


def main() -> None:
    parser = argparse.ArgumentParser(description="Converts a checkpoint to OpenVINO's own format.")
    parser.add_argument("checkpoint", type=Path)
    checkpoint: Path = parser.parse_args().checkpoint
    partial, target = checkpoint / "openvino.partial", checkpoint / "openvino"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    # Outputs as a tuple: the tracer has no use for named ones.
    model.config.return_dict = False
    ids = torch.randint(10, 1000, (2, 16))
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.model_type == "bert":
        example["token_type_ids"] = torch.zeros_like(ids)
    converted = openvino.convert_model(model, example_input=example)
    # Its default halves the file by keeping weights in f16.
    openvino.save_model(converted, str(partial / "model.xml"), compress_to_fp16=False)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


if __name__ == "__main__":
    main()
