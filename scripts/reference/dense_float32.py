"""A dense float32 run of a GGUF llama model, to compare the package with: numpy only, nothing of the package.

Weights are dequantised by the `gguf` package, all products are float32, attention is the full causal softmax. Prints, as
JSON, what the model says of each of the last STEPS tokens given all tokens before it.

    pip install numpy gguf
    python3 dense_float32.py MODEL.gguf TOKENS.json PREFIX STEPS [--bf16-rows]

TOKENS.json is a list of ids, of which the first PREFIX + STEPS + 1 are used. With --bf16-rows, keys and values are rounded
to bfloat16 as the package stores them.
"""

import hashlib
import json
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

ROWS = 512


def load(path):
    reader = GGUFReader(path)
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        tensors[tensor.name] = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    return tensors, fields


def rms_norm(x, weight, epsilon):
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32) + np.float32(epsilon)) * weight


def rotate(x, positions, theta):
    """Pairs (2i, 2i + 1) of each head [rows, heads, dim], as GGUF's llama has them."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * theta ** (-2.0 * np.arange(half) / (2 * half))
    cos, sin = np.cos(angles)[:, None, :].astype(np.float32), np.sin(angles)[:, None, :].astype(np.float32)
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2], out[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos
    return out


def round_bf16(x):
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def attention(q, k, v):
    """Causal; q [rows, heads, dim], k and v [rows, kv heads, dim]."""
    rows, heads, dim = q.shape
    group = heads // k.shape[1]
    out = np.empty_like(q)
    for head in range(heads):
        keys, values = k[:, head // group], v[:, head // group]
        for first in range(0, rows, ROWS):
            last = min(first + ROWS, rows)
            scores = (q[first:last, head] @ keys[:last].T) / np.float32(np.sqrt(dim))
            scores[np.arange(first, last)[:, None] < np.arange(last)[None, :]] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[first:last, head] = (weights @ values[:last]) / weights.sum(axis=1, keepdims=True)
    return out


def forward(tensors, fields, tokens, bf16_rows):
    layers, heads = fields["llama.block_count"], fields["llama.attention.head_count"]
    kv_heads, epsilon = fields["llama.attention.head_count_kv"], fields["llama.attention.layer_norm_rms_epsilon"]
    theta = fields["llama.rope.freq_base"]
    positions = np.arange(len(tokens), dtype=np.float64)
    x = tensors["token_embd.weight"][tokens]
    for layer in range(layers):
        weight = lambda name: tensors[f"blk.{layer}.{name}.weight"]
        normed = rms_norm(x, weight("attn_norm"), epsilon)
        q = (normed @ weight("attn_q").T).reshape(len(tokens), heads, -1)
        k = (normed @ weight("attn_k").T).reshape(len(tokens), kv_heads, -1)
        v = (normed @ weight("attn_v").T).reshape(len(tokens), kv_heads, -1)
        q, k = rotate(q, positions, theta), rotate(k, positions, theta)
        if bf16_rows:
            k, v = round_bf16(k), round_bf16(v)
        x = x + attention(q, k, v).reshape(len(tokens), -1) @ weight("attn_output").T
        normed = rms_norm(x, weight("ffn_norm"), epsilon)
        gate, up = normed @ weight("ffn_gate").T, normed @ weight("ffn_up").T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weight("ffn_down").T
        print(f"layer {layer + 1} of {layers}", file=sys.stderr)
    return rms_norm(x, tensors["output_norm.weight"], epsilon)


def main():
    model, tokens_file, prefix, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    tensors, fields = load(model)
    with open(tokens_file, encoding="utf-8") as file:
        tokens = json.load(file)[: prefix + steps + 1]
    assert len(tokens) == prefix + steps + 1, f"{len(tokens)} tokens are too few"
    hidden = forward(tensors, fields, tokens[:-1], "--bf16-rows" in sys.argv)
    head = tensors.get("output.weight", tensors["token_embd.weight"])
    logits = hidden[prefix:] @ head.T
    top = np.argsort(-logits, axis=1)[:, :5]
    greatest = logits.max(axis=1, keepdims=True)
    log_sum = greatest[:, 0] + np.log(np.exp(logits - greatest).sum(axis=1))
    nll = log_sum - logits[np.arange(steps), tokens[prefix + 1 :]]
    with open(model, "rb") as file:
        model_digest = hashlib.file_digest(file, "sha256").hexdigest()
    result = {
        "modelSha256": model_digest,
        "tokensSha256": hashlib.sha256(json.dumps(tokens, separators=(",", ":")).encode()).hexdigest(),
        "prefix": prefix,
        "steps": steps,
        "bf16Rows": "--bf16-rows" in sys.argv,
        "perplexity": round(float(np.exp(nll.mean())), 6),
        "nll": [round(float(x), 6) for x in nll],
        "top5": [[[int(i), round(float(row[i]), 4)] for i in ids] for ids, row in zip(top, logits)],
    }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
