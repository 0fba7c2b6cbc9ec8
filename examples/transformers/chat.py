"""A chat with any causal language model of transformers. What the model computed for earlier turns, and for system
prompts that others have sent too, comes from kvstore instead of being computed again.

    python chat.py --model DIRECTORY --socket /run/kvstore/kvstore.sock [--system FILE]

Type a message and get an answer. With `--requests FILE`, a JSON list of `{"system": TEXT, "turns": [TEXT, ...]}`, it
prints one JSON object for each turn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import kvstore
import torch
from kv_blocks import Blocks, NoBlocks, ProcessBlocks, StoredBlocks, shape_of
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

Message = dict[str, str]


@dataclass
class Answer:
    """One answer and what it took: until its first token, and after its last, for storing, by the clock and by what all
    threads of this process used. `logits_digest` is of the logits of the first token."""

    tokens: list[int]
    text: str
    prompt_tokens: int
    first_token_seconds: float
    first_token_processor_seconds: float
    logits_digest: str
    save_seconds: float
    save_processor_seconds: float


class Chat:
    """A model, its tokenizer and a place for blocks."""

    def __init__(self, directory: Path, dtype: str, cache: str, socket: str | None, options: argparse.Namespace):
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        self.most_tokens = options.tokens
        self.tokens_per_block = options.block
        shape_of(self.model)  # also warms it up, so that the first answer takes no longer than later ones
        self.blocks: Blocks = NoBlocks()
        if cache == "process":
            self.blocks = ProcessBlocks(options.block, options.most_blocks)
        elif cache == "store":
            store = kvstore.Store.connect(socket, timeout_ms=options.timeout, client_name="transformers")
            self.blocks = StoredBlocks(self.model, store, options.block, options.digests)

    def answer(self, messages: list[Message]) -> Answer:
        """Computes what is not known of the conversation, then the answer, greedily; then stores what was computed."""
        tokens = self._tokenize(messages)
        prompt_tokens = len(tokens)
        start, processor = time.perf_counter(), time.process_time()
        cache, known = self.blocks.load(tokens)
        logits = self._prefill(tokens, cache, known)
        answer = [int(logits.argmax())]
        first = (time.perf_counter() - start, time.process_time() - processor)
        digest = hashlib.sha256(logits.float().numpy().tobytes()).hexdigest()
        while len(answer) < self.most_tokens and answer[-1] != self.tokenizer.eos_token_id:
            tokens.append(answer[-1])
            answer.append(int(self._forward(tokens[-1:], cache).argmax()))
        start, processor = time.perf_counter(), time.process_time()
        self.blocks.save(tokens, cache)
        save = (time.perf_counter() - start, time.process_time() - processor)
        text = self.tokenizer.decode(answer, skip_special_tokens=True)
        return Answer(answer, text, prompt_tokens, *first, digest, *save)

    def _tokenize(self, messages: list[Message]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _prefill(self, tokens: list[int], cache: DynamicCache, known: int) -> torch.Tensor:
        """Whole blocks first and the rest alone, however much was known: the same cut gives the same logits."""
        whole = (len(tokens) - 1) // self.tokens_per_block * self.tokens_per_block
        if known < whole:
            self._forward(tokens[known:whole], cache)
        return self._forward(tokens[whole:], cache)

    def _forward(self, tokens: list[int], cache: DynamicCache) -> torch.Tensor:
        """Logits after the last of `tokens`; their KV is in the cache then."""
        with torch.inference_mode():
            output = self.model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1]


def answer_requests(chat: Chat, path: Path) -> None:
    """Every turn is answered from the store alone, as if by another process each time."""
    for conversation in json.loads(path.read_text()):
        messages: list[Message] = [{"role": "system", "content": conversation["system"]}]
        for turn in conversation["turns"]:
            messages.append({"role": "user", "content": turn})
            answer = chat.answer(messages)
            messages.append({"role": "assistant", "content": answer.text})
            print(json.dumps(asdict(answer) | asdict(chat.blocks.use)), flush=True)


def talk(chat: Chat, system: str) -> None:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        messages.append({"role": "user", "content": text})
        answer = chat.answer(messages)
        messages.append({"role": "assistant", "content": answer.text})
        use = chat.blocks.use
        print(answer.text)
        print(
            f"[{answer.prompt_tokens} tokens, {use.restored_blocks} blocks restored, {use.disk_blocks} of them from "
            f"disk, {use.stored_blocks} stored; first token after {answer.first_token_seconds * 1000:.0f} ms]",
            file=sys.stderr,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument("--dtype", default="auto", help="element type to compute with, such as float32 or bfloat16")
    parser.add_argument("--cache", choices=["store", "process", "none"], default="store")
    parser.add_argument("--socket", default="/run/kvstore/kvstore.sock")
    parser.add_argument("--timeout", type=int, default=1000, help="milliseconds to wait for the daemon at most")
    parser.add_argument("--block", type=int, default=64, help="tokens of a block")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of an answer at most")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--system", type=Path, help="file with the system prompt")
    parser.add_argument("--requests", type=Path, help="JSON list of conversations to answer")
    parser.add_argument("--most-blocks", type=int, help="with --cache process: restore no more than so many")
    parser.add_argument("--digests", action="store_true", help="with --requests: digests of every block")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    chat = Chat(given.model, given.dtype, given.cache, given.socket, given)
    if given.requests:
        answer_requests(chat, given.requests)
    else:
        talk(chat, given.system.read_text() if given.system else "")


if __name__ == "__main__":
    main()
