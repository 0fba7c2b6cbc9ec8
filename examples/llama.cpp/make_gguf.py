"""Makes models with random weights as GGUF, with a vocabulary of bytes, without a network. Needs `gguf` and `numpy`.

    python make_gguf.py FILE.gguf [--preset tiny|small] [--architecture llama|gemma3|llada|jamba|mamba] [--seed 0]

A Llama is what blocks are for. Three of four layers of gemma3 look at a window of 160 tokens only. The others are for
being refused: they compute nothing of use. Query weights are made larger than usual, and embedding, value and output
weights too, so that attention prefers few tokens and the answer depends on what it finds: the test changes a stored
block, and must see another answer.
"""

from __future__ import annotations

import argparse

import gguf
import numpy as np

# hidden size, layers, heads, KV heads, head dimension, feed-forward size
PRESETS = {"tiny": (512, 4, 16, 8, 64, 1408), "small": (1024, 8, 16, 8, 128, 2816)}
VOCABULARY = 8192
CONTEXT = 16384
ARCHITECTURES = ["llama", "gemma3", "llada", "jamba", "mamba"]
# Of layers with a state instead of attention.
STATE, CONVOLUTION, RANK = 16, 4, 32


def has_attention(architecture: str, layer: int) -> bool:
    return architecture != "mamba" and (architecture != "jamba" or layer % 2 == 1)


def head_dimension(preset: str, architecture: str) -> int:
    hidden, _, heads, _, dimension, _ = PRESETS[preset]
    # Of Jamba llama.cpp knows no others.
    return hidden // heads if architecture == "jamba" else dimension


def add_shape(
    writer: gguf.GGUFWriter, preset: str, architecture: str, rope_base: float, epsilon: float, window: int
) -> None:
    hidden, layers, heads, kv_heads, _, feed_forward = PRESETS[preset]
    dimension = head_dimension(preset, architecture)
    writer.add_name(f"random-{architecture}-{preset}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    if architecture == "jamba":
        writer.add_head_count_kv([kv_heads if has_attention(architecture, layer) else 0 for layer in range(layers)])
    else:
        writer.add_head_count_kv(kv_heads)
    writer.add_key_length(dimension)
    writer.add_value_length(dimension)
    writer.add_rope_dimension_count(dimension)
    writer.add_rope_freq_base(rope_base)
    writer.add_layer_norm_rms_eps(epsilon)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if architecture == "gemma3":
        writer.add_sliding_window(window)
        writer.add_sliding_window_pattern(layers)
    if architecture in ("jamba", "mamba"):
        writer.add_ssm_conv_kernel(CONVOLUTION)
        writer.add_ssm_inner_size(2 * hidden)
        writer.add_ssm_state_size(STATE)
        writer.add_ssm_time_step_rank(RANK)


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Three control tokens, one for each byte, and words that no text contains."""
    kinds = gguf.TokenType
    tokens = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{byte:02X}>".encode() for byte in range(256)]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * 256
    scores = [0.0] * len(tokens)
    while len(tokens) < VOCABULARY:
        scores.append(-float(len(tokens)))
        types.append(kinds.NORMAL)
        tokens.append(f"\x01{len(tokens)}".encode())
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


class Weights:
    """Writes tensors of random numbers, and of one number."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int) -> None:
        self.writer = writer
        self.random = np.random.default_rng(seed)

    def add(self, name: str, rows: int, columns: int, deviation: float = 0.02) -> None:
        values = self.random.standard_normal((rows, columns), dtype=np.float32) * deviation
        self.writer.add_tensor(name, values.astype(np.float16))

    def add_ones(self, name: str, *shape: int, value: float = 1) -> None:
        self.writer.add_tensor(name, np.full(shape, value, np.float32))


def add_attention(weights: Weights, prefix: str, preset: str, architecture: str) -> None:
    hidden, _, heads, kv_heads, _, _ = PRESETS[preset]
    dimension = head_dimension(preset, architecture)
    weights.add(prefix + "attn_q.weight", heads * dimension, hidden, 0.12)
    weights.add(prefix + "attn_k.weight", kv_heads * dimension, hidden)
    weights.add(prefix + "attn_v.weight", kv_heads * dimension, hidden, 0.04)
    weights.add(prefix + "attn_output.weight", hidden, heads * dimension, 0.04)
    if architecture == "gemma3":
        weights.add_ones(prefix + "attn_q_norm.weight", dimension)
        weights.add_ones(prefix + "attn_k_norm.weight", dimension)
        weights.add_ones(prefix + "post_attention_norm.weight", hidden)
        weights.add_ones(prefix + "post_ffw_norm.weight", hidden)


def add_state(weights: Weights, prefix: str, hidden: int, architecture: str) -> None:
    """A layer of Mamba."""
    inner = 2 * hidden
    weights.add(prefix + "ssm_in.weight", 2 * inner, hidden)
    weights.add_ones(prefix + "ssm_conv1d.weight", inner, CONVOLUTION)
    weights.add_ones(prefix + "ssm_conv1d.bias", inner)
    weights.add(prefix + "ssm_x.weight", RANK + 2 * STATE, inner)
    weights.add(prefix + "ssm_dt.weight", inner, RANK)
    weights.add_ones(prefix + "ssm_dt.bias", inner)
    weights.add_ones(prefix + "ssm_a", inner, STATE, value=-1)
    weights.add_ones(prefix + "ssm_d", inner)
    weights.add(prefix + "ssm_out.weight", hidden, inner)
    if architecture == "jamba":
        for name, size in ("dt", RANK), ("b", STATE), ("c", STATE):
            weights.add_ones(f"{prefix}ssm_{name}_norm.weight", size)


def add_weights(weights: Weights, preset: str, architecture: str) -> None:
    hidden, layers, _, _, _, feed_forward = PRESETS[preset]
    weights.add("token_embd.weight", VOCABULARY, hidden, 1.0)
    weights.add("output.weight", VOCABULARY, hidden)
    weights.add_ones("output_norm.weight", hidden)
    for layer in range(layers):
        prefix = f"blk.{layer}."
        weights.add_ones(prefix + "attn_norm.weight", hidden)
        if has_attention(architecture, layer):
            add_attention(weights, prefix, preset, architecture)
        else:
            add_state(weights, prefix, hidden, architecture)
        if architecture == "mamba":
            continue
        weights.add_ones(prefix + "ffn_norm.weight", hidden)
        weights.add(prefix + "ffn_gate.weight", feed_forward, hidden)
        weights.add(prefix + "ffn_up.weight", feed_forward, hidden)
        weights.add(prefix + "ffn_down.weight", hidden, feed_forward)


def make_gguf(
    path: str,
    preset: str,
    seed: int = 0,
    architecture: str = "llama",
    rope_base: float = 10_000.0,
    epsilon: float = 1e-5,
    window: int = 160,
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    add_shape(writer, preset, architecture, rope_base, epsilon, window)
    add_vocabulary(writer)
    add_weights(Weights(writer, seed), preset, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("--preset", default="small", choices=PRESETS)
    parser.add_argument("--architecture", default="llama", choices=ARCHITECTURES)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make_gguf(given.path, given.preset, given.seed, given.architecture)


if __name__ == "__main__":
    main()
