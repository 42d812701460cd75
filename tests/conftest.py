"""Tiny randomly initialised models of several families, each saved as a folder that a user could name with --base."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lamina.cli.main import run_command
from lamina.config import BaseSettings
from lamina.lora.adapter import Factors, save_adapter
from lamina.model.base import Base, LoadedBase, load_base, resolve_base
from lamina.ops.project import open_project
from lamina.records import Quiet
from lamina.stack.layers import stack_digest, write_layer, write_stack
from lamina.stack.lineage import get_current, set_ref
from lamina.stack.manifest import ROWS_TYPE, WEIGHTS_TYPE, Cost, DataSource, LayerConfig, StackConfig
from lamina.stack.order import add_layer
from lamina.stack.resolve import resolve

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


_WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}
_GATED = {**_WIDTH, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 256}
_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_GATED, **_IDS, tie_word_embeddings=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_GATED, **_IDS)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_GATED, **_IDS, sliding_window=8)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_GATED, **_IDS, head_dim=8)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **_GATED,
            **_IDS,
            head_dim=8,
            sliding_window=8,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=5.0,
        )
    ),
    "gemma3_text": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **_GATED, **_IDS, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
        )
    ),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**_GATED, **_IDS, partial_rotary_factor=0.5)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=300, n_positions=256, bos_token_id=0, eos_token_id=1)
    ),
}


def make_model(family: str) -> PreTrainedModel:
    """Return a random model whose norms and biases are not the ones and zeros that they start from."""
    torch.manual_seed(7)
    model = FAMILIES[family]()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += torch.randn_like(parameter) * 0.1
    return model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    bytes_only = Tokenizer(models.BPE())
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bytes_only.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 10, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )


@pytest.fixture(scope="session")
def base_folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """One folder per family; gpt2 has no chat template, the others speak ChatML."""
    folders = {}
    for name in FAMILIES:
        folder = tmp_path_factory.mktemp(name)
        make_model(name).save_pretrained(folder)
        tokenizer.chat_template = None if name == "gpt2" else CHATML
        tokenizer.save_pretrained(folder)
        folders[name] = folder
    return folders


@pytest.fixture(params=sorted(FAMILIES))
def any_base(request: pytest.FixtureRequest, base_folders: dict[str, Path]) -> LoadedBase:
    return load_base(_resolve(base_folders[request.param]), dtype=torch.float32)


@pytest.fixture
def sharp_base(any_base: LoadedBase) -> LoadedBase:
    """Any base whose attention is far from the mean over all tokens that small random weights give."""
    with torch.no_grad():
        for parameter in any_base.model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(5.0)
    return any_base


@pytest.fixture
def llama_base(base_folders: dict[str, Path]) -> LoadedBase:
    return load_base(_resolve(base_folders["llama"]), dtype=torch.float32)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command line in this process, as if typed in the current folder."""

    def type_line(*arguments: str) -> Said:
        capsys.readouterr()
        code = run_command(list(arguments))
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return type_line


@pytest.fixture
def project(
    tmp_path: Path, base_folders: dict[str, Path], cli: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A project on the tiny llama, which is also the current folder."""
    monkeypatch.chdir(tmp_path)
    assert cli("init", "--base", str(base_folders["llama"])).code == 0
    return tmp_path


@pytest.fixture
def grow(project: Path) -> Callable[..., StackConfig]:
    """Return a function that puts a layer of random weights on top of the current branch, as training would."""
    opened = open_project(project, Quiet())
    store, pin = opened.store, opened.base.pin

    def make(name: str, seconds: float = 60.0, mixed_in: float | None = None) -> StackConfig:
        branch, held = get_current(store)
        stack = resolve(store, branch, pin)
        random = torch.Generator().manual_seed(len(stack.layers))
        maps = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")
        weights = {
            path: Factors(torch.randn(4, 32, generator=random), torch.randn(64, 4, generator=random)) for path in maps
        }
        file = project / f"{name}.safetensors"
        save_adapter(weights, file)
        config = LayerConfig(
            name=name,
            base=pin,
            parent=stack_digest(stack),
            weights=store.put_file(file, WEIGHTS_TYPE).digest,
            rank=4,
            modules=maps,
            recipe={"rank": 4},
            recipe_origins={"rank": "flag"},
            data=(DataSource(file=f"{name}.jsonl", digest=pin.digest, rows=2),),
            rows=store.put_bytes(name.encode(), ROWS_TYPE).digest,
            replay=None,
            heldout=None,
            cost=Cost(tokens=1000, trained_tokens=700, seconds=seconds, steps=2),
            heldout_loss_before=2.0,
            heldout_loss_after=1.0,
            machine={"cpu": "x"},
            versions={"lamina": "0"},
            created=f"2026-01-0{len(stack.layers) + 1}T00:00:00+00:00",
            mixed_in=mixed_in,
        )
        grown = add_layer(store, stack, write_layer(store, config))
        set_ref(store, branch, write_stack(store, grown), why=f"train {name}", expect=held)
        return grown

    return make


def _resolve(folder: Path) -> Base:
    return resolve_base(BaseSettings(model=str(folder)), Quiet())


JudgeReply = str | int | bytes | None  # text of a completion, an HTTP status, a raw body, or silence


@dataclass
class FakeJudge:
    """A judge on loopback that speaks as OpenAI's endpoint does, and behaves as a test wants it to.

    ``behave`` maps a request's body to what comes back; ``seen`` holds every body and ``keys`` its Authorization.
    """

    url: str = ""
    behave: Callable[[dict[str, Any]], JudgeReply] = lambda body: "[[C]]"
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    release: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def judge() -> Iterator[FakeJudge]:
    fake = FakeJudge()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.seen.append(body)
            fake.keys.append(self.headers.get("Authorization"))
            said = fake.behave(body)
            if said is None:
                fake.release.wait(10)  # the asker gives up before that; the test's end lets us go
                return
            status, content = 200, b""
            if isinstance(said, str):
                content = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
            elif isinstance(said, bytes):
                content = said
            else:
                status, content = said, b'{"error": "as told"}'
            self.send_response(status)
            for name, value in fake.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield fake
    fake.release.set()
    server.shutdown()
    thread.join()
    server.server_close()
