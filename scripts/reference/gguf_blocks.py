"""Records what the `gguf` package makes of a random block of every quantised type: __test__/reference/gguf-blocks.json.

    pip install numpy gguf==0.19.0
    python3 gguf_blocks.py

For each type its number in the format, a block's bytes in hexadecimal, and its elements as float32, little-endian, likewise.
"""

import json
import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

# Where a type's f16 numbers are in a block; everything else may be any byte.
HALVES = {
    Type.Q8_0: [0],
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.IQ4_NL: [0],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
}


def main():
    random = np.random.default_rng(20)
    types = {}
    for kind, places in HALVES.items():
        size, count = GGML_QUANT_SIZES[kind]
        block = random.integers(0, 256, count, dtype=np.uint8)
        for place in places:
            half = np.float16(random.uniform(0.001, 0.01) * random.choice([-1, 1]))
            block[place : place + 2] = np.frombuffer(half.tobytes(), np.uint8)
        elements = dequantize(block.reshape(1, count), kind).astype("<f4")
        assert elements.size == size
        types[kind.name] = {"number": int(kind), "block": block.tobytes().hex(), "elements": elements.tobytes().hex()}
    path = pathlib.Path(__file__).parents[2] / "__test__" / "reference" / "gguf-blocks.json"
    path.write_text(json.dumps(types, indent=1) + "\n")


if __name__ == "__main__":
    main()
