"""Makes a Llama or Qwen2 with random weights and a byte-level BPE tokenizer as a Hugging Face directory, offline.

    python make_model.py DIRECTORY [--preset tiny|small|1b] [--architecture llama|qwen2] [--dtype bfloat16] [--seed 0]

With the usual random weights attention is nearly uniform, and the model repeats itself whatever came before. So query
weights are made larger (attention prefers few tokens), and embedding, value and output weights too (what it finds
matters). The tests prove that this is enough: they change cached blocks, and other tokens come out.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
from pathlib import Path

# hidden size, layers, heads, KV heads, head dimension, feed-forward size
PRESETS = {
    "tiny": (512, 4, 16, 8, 64, 1408),
    "small": (1024, 8, 16, 8, 128, 2816),
    "1b": (2048, 16, 32, 8, 64, 8192),
}
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "


def save_tokenizer(directory: Path, vocabulary: int) -> None:
    """Trains a byte-level BPE on the sources of Python's standard library."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = sorted(map(str, Path(sysconfig.get_paths()["stdlib"]).glob("*.py")))[:100]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>", "<pad>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=CHAT_TEMPLATE
    )
    fast.save_pretrained(directory)


def make_weights(preset: str, architecture: str, dtype: str, vocabulary: int, seed: int):
    """A causal language model with weights from `seed`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    hidden, layers, heads, kv_heads, dimension, feed_forward = PRESETS[preset]
    shape = dict(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=feed_forward,
        max_position_embeddings=16384,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    if architecture == "llama":
        config = LlamaConfig(num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=dimension, **shape)
        model = LlamaForCausalLM(config)
    else:
        heads = hidden // dimension
        model = Qwen2ForCausalLM(
            Qwen2Config(num_attention_heads=heads, num_key_value_heads=min(kv_heads, heads), **shape)
        )
    gains = {"embed_tokens.weight": 50.0, "q_proj.weight": 6.0, "v_proj.weight": 2.0, "o_proj.weight": 2.0}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for suffix, gain in gains.items():
                if name.endswith(suffix):
                    parameter.mul_(gain)
    return model.to(getattr(torch, dtype))


def make_model(
    directory: Path, preset: str, architecture: str = "llama", dtype: str = "bfloat16", seed: int = 0
) -> None:
    """Writes the model and its tokenizer; does nothing where there is one."""
    if (directory / "config.json").exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = 8192
    save_tokenizer(directory, vocabulary)
    model = make_weights(preset, architecture, dtype, vocabulary, seed)
    model.save_pretrained(directory)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{directory}: random weights of seed {seed}, {parameters / 1e6:.0f} million, {dtype}")


def make_adapter(directory: Path, model: Path, seed: int) -> None:
    """Writes a LoRA adapter of rank 8 with random weights for a model's queries and values, in PEFT's form."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((model / "config.json").read_text())
    hidden, dimension, rank = config["hidden_size"], config["head_dim"], 8
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, heads in ("q_proj", config["num_attention_heads"]), ("v_proj", config["num_key_value_heads"]):
            base = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{base}.lora_A.weight"] = torch.randn(rank, hidden, generator=generator) / hidden**0.5
            tensors[f"{base}.lora_B.weight"] = torch.randn(heads * dimension, rank, generator=generator) / rank**0.5
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    described = dict(peft_type="LORA", r=rank, lora_alpha=rank, target_modules=["q_proj", "v_proj"], bias="none")
    described |= dict(task_type="CAUSAL_LM", base_model_name_or_path=str(model))
    (directory / "adapter_config.json").write_text(json.dumps(described))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--preset", default="small", choices=PRESETS)
    parser.add_argument("--architecture", default="llama", choices=["llama", "qwen2"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make_model(given.directory, given.preset, given.architecture, given.dtype, given.seed)


if __name__ == "__main__":
    main()
