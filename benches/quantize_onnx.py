"""A checkpoint's ONNX graphs in int8, for onnxruntime: `python -m benches.quantize_onnx CHECKPOINT`, under
the peers' interpreter, after benches.export_onnx.

Dynamic quantization, weights per channel, as its users are told to; of both graphs, and with the weights in
8 bits and in 7 (`reduce_range`): on a CPU without VNNI products of 8 bits saturate; with it, the eighth bit
would be given up for nothing.
"""

import argparse
import shutil
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantizes a checkpoint's ONNX graphs.")
    parser.add_argument("checkpoint", type=Path)
    checkpoint: Path = parser.parse_args().checkpoint
    partial, target = checkpoint / "onnx-int8.partial", checkpoint / "onnx-int8"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for graph in ("plain", "fused"):
        for bits, reduced in ((8, False), (7, True)):
            quantize_dynamic(
                str(checkpoint / "onnx" / f"{graph}.onnx"),
                str(partial / f"{graph}-{bits}.onnx"),
                per_channel=True,
                reduce_range=reduced,
                weight_type=QuantType.QInt8,
                # The fused operators are not of ONNX, whose shape inference stops at them.
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


if __name__ == "__main__":
    main()
