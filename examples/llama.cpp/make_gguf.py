"""Makes a Llama with random weights as GGUF, with a vocabulary of bytes, without a network. Needs `gguf` and `numpy`.

    python make_gguf.py FILE.gguf [--preset tiny|small] [--seed 0]

Query weights are made larger than usual, and embedding, value and output weights too, so that attention prefers few
tokens and the answer depends on what it finds: the test changes a stored block, and must see another answer.
"""

from __future__ import annotations

import argparse

import gguf
import numpy as np

# hidden size, layers, heads, KV heads, head dimension, feed-forward size
PRESETS = {"tiny": (512, 4, 16, 8, 64, 1408), "small": (1024, 8, 16, 8, 128, 2816)}
VOCABULARY = 8192
CONTEXT = 16384


def add_shape(writer: gguf.GGUFWriter, preset: str) -> None:
    hidden, layers, heads, kv_heads, dimension, feed_forward = PRESETS[preset]
    writer.add_name(f"random-llama-{preset}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(dimension)
    writer.add_value_length(dimension)
    writer.add_rope_dimension_count(dimension)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


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


def add_weights(writer: gguf.GGUFWriter, preset: str, seed: int) -> None:
    hidden, layers, heads, kv_heads, dimension, feed_forward = PRESETS[preset]
    random = np.random.default_rng(seed)

    def add(name: str, rows: int, columns: int, deviation: float = 0.02) -> None:
        values = random.standard_normal((rows, columns), dtype=np.float32) * deviation
        writer.add_tensor(name, values.astype(np.float16))

    ones = np.ones(hidden, np.float32)
    add("token_embd.weight", VOCABULARY, hidden, 1.0)
    add("output.weight", VOCABULARY, hidden)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(layers):
        prefix = f"blk.{layer}."
        writer.add_tensor(prefix + "attn_norm.weight", ones)
        writer.add_tensor(prefix + "ffn_norm.weight", ones)
        add(prefix + "attn_q.weight", heads * dimension, hidden, 0.12)
        add(prefix + "attn_k.weight", kv_heads * dimension, hidden)
        add(prefix + "attn_v.weight", kv_heads * dimension, hidden, 0.04)
        add(prefix + "attn_output.weight", hidden, heads * dimension, 0.04)
        add(prefix + "ffn_gate.weight", feed_forward, hidden)
        add(prefix + "ffn_up.weight", feed_forward, hidden)
        add(prefix + "ffn_down.weight", hidden, feed_forward)


def make_gguf(path: str, preset: str, seed: int = 0) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    add_shape(writer, preset)
    add_vocabulary(writer)
    add_weights(writer, preset, seed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("--preset", default="small", choices=PRESETS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make_gguf(given.path, given.preset, given.seed)


if __name__ == "__main__":
    main()
