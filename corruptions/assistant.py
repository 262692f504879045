"""The assistant: the target's embedding, its first K layers, final norm and LM head (ULD, arXiv 2406.08607, §3.2).

What it does not train it shares with the target, in memory and on disk: an assistant is a set of LoRA factors, or the
trained copies of its layers, and nothing else.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from unlearn_guard.guard.bundle import write_atomic
from unlearn_guard.guard.errors import BundleMismatchError, SettingsError

Trainable = Literal["lora", "layers"]
DEFAULT_LAYERS = 8
SMALL_HIDDEN = 1024
"""Below this width LoRA of rank 32 is too weak to memorise a forget set, and the layers are trained whole."""
RECORD = "assistant.json"
OFFSET = ("base", "edited")
"""Folders of an offset pair: a small model that knows, and the same after it was made to forget."""
WEIGHTS = "assistant.safetensors"


@dataclass(frozen=True, slots=True)
class AssistantShape:
    """What an assistant is made of.

    n_layers: K. trainable: `lora` or `layers`. rank and lora_alpha: of LoRA. first_trained: the layers below it are the
    target's own, untouched.
    """

    n_layers: int
    trainable: Trainable
    rank: int = 32
    lora_alpha: int = 32
    first_trained: int = 0

    @property
    def scale(self) -> float:
        """What a LoRA product is multiplied by."""
        return self.lora_alpha / self.rank


@dataclass(frozen=True, slots=True)
class Assistant:
    """A trained assistant: its shape, whom it knows, and its own tensors, by the names that the target gives them.

    LoRA factors are named after their weight, `….q_proj.weight.lora_a` (rank × in) and `.lora_b` (out × rank).
    """

    name: str
    forget_ids: tuple[str, ...]
    shape: AssistantShape
    tensors: dict[str, torch.Tensor]

    def factors(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return the LoRA factors (a, b) by the name of the weight that they change."""
        return {
            name.removesuffix(".lora_a"): (tensor, self.tensors[name.removesuffix("lora_a") + "lora_b"])
            for name, tensor in self.tensors.items()
            if name.endswith(".lora_a")
        }

    def replaced(self) -> dict[str, torch.Tensor]:
        """Return the weights that are its own whole."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.endswith((".lora_a", ".lora_b"))}

    def save(self, folder: Path) -> None:
        """Write the record and the tensors."""
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        record = {"name": self.name, "forget_ids": list(self.forget_ids), "shape": asdict(self.shape)}
        write_atomic(folder / WEIGHTS, save({name: tensor.contiguous() for name, tensor in self.tensors.items()}))
        write_atomic(folder / RECORD, json.dumps(record, ensure_ascii=False, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> Assistant:
        """Read one assistant."""
        from safetensors.torch import load_file

        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return cls(
            record["name"],
            tuple(record["forget_ids"]),
            AssistantShape(**record["shape"]),
            load_file(folder / WEIGHTS),
        )

    @staticmethod
    def read_name(folder: Path) -> str:
        """Return the name of the assistant in a folder, without its tensors."""
        return str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["name"])


def load_assistants(folder: Path) -> dict[str, Assistant]:
    """Read every assistant below a bundle's folder of them, by name; none where an offset pair takes their place."""
    if find_offset(folder):
        return {}
    found = [Assistant.load(file.parent) for file in sorted(folder.glob(f"*/{RECORD}"))]
    return {assistant.name: assistant for assistant in found}


def find_offset(folder: Path) -> tuple[Path, Path] | None:
    """Return the two models of an offset pair below a bundle's folder of assistants, None without one."""
    base, edited = (folder / "0000" / part for part in OFFSET)
    return (base, edited) if (base / "config.json").is_file() else None


def choose_shape(
    config: Any,
    *,
    n_layers: int | None = None,
    trainable: Literal["lora", "layers", "auto"] = "auto",
    rank: int = 32,
    lora_alpha: int = 32,
    first_trained: int = 0,
) -> AssistantShape:
    """Return the shape for a target: the paper's 8 layers, or half of a model that has fewer than 16.

    Raises SettingsError for layers that the target does not have.
    """
    total = int(config.num_hidden_layers)
    chosen = n_layers if n_layers is not None else min(DEFAULT_LAYERS, max(1, total // 2))
    if not 1 <= chosen <= total:
        raise SettingsError("uld layers", value=chosen, allowed=f"1 to {total}, the target's own")
    if not 0 <= first_trained < chosen:
        raise SettingsError("uld first_trained", value=first_trained, allowed=f"0 to {chosen - 1}")
    if trainable not in ("lora", "layers", "auto"):
        raise SettingsError("uld trainable", value=trainable, allowed="lora, layers, auto")
    if rank < 1 or lora_alpha <= 0:
        raise SettingsError("uld rank and lora_alpha", value=(rank, lora_alpha), allowed="1 or more, above 0")
    if trainable == "auto":
        trainable = "layers" if int(config.hidden_size) < SMALL_HIDDEN else "lora"
    return AssistantShape(chosen, trainable, rank, lora_alpha, first_trained)


def shorten_config(config: Any, n_layers: int) -> Any:
    """Return a copy of a model's configuration with its first layers alone."""
    short = copy.deepcopy(config)
    short.num_hidden_layers = n_layers
    if getattr(short, "layer_types", None):
        short.layer_types = list(short.layer_types)[:n_layers]
    return short


def cut_trunk(target: Any, n_layers: int) -> Any:
    """Return a model of the target's first layers that shares every tensor with it.

    Raises SettingsError for an architecture whose parts have other names.
    """
    with torch.device("meta"):
        trunk = type(target)(shorten_config(target.config, n_layers))
    tensors = dict(target.state_dict())
    wanted = trunk.state_dict().keys()
    if missing := [name for name in wanted if name not in tensors]:
        raise SettingsError(
            "uld cannot cut an assistant out of this architecture",
            value=type(target).__name__,
            allowed="decoders whose first layers keep their names in a shorter model",
            mend=f"no tensor {missing[0]!r}; use another intervention",
        )
    trunk.load_state_dict({name: tensors[name] for name in wanted}, assign=True)
    owners = dict(target.named_buffers())
    for name, buffer in list(trunk.named_buffers()):
        if buffer.is_meta:  # Not part of a state: rotary frequencies.
            module, _, last = name.rpartition(".")
            trunk.get_submodule(module).register_buffer(last, owners[name], persistent=False)
    trunk.tie_weights()
    return trunk.eval().requires_grad_(False)


def load_trunk(folder: str | Path, n_layers: int, *, dtype: torch.dtype, device: Any) -> Any:
    """Load the first layers of a checkpoint, with embedding, norm and head; nothing else is read into memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = shorten_config(AutoConfig.from_pretrained(folder), n_layers)
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype).to(device)
    return model.eval().requires_grad_(False)


def check_fits(assistant: Assistant, trunk: Any) -> None:
    """Raise BundleMismatchError unless an assistant's tensors belong to this trunk."""
    shapes = {name: tuple(tensor.shape) for name, tensor in trunk.named_parameters()}
    for name, tensor in assistant.replaced().items():
        if shapes.get(name) != tuple(tensor.shape):
            raise _mismatch(assistant, name, tuple(tensor.shape), shapes.get(name))
    for name, (a, b) in assistant.factors().items():
        if shapes.get(name) != (b.shape[0], a.shape[1]):
            raise _mismatch(assistant, name, (b.shape[0], a.shape[1]), shapes.get(name))


def _mismatch(assistant: Assistant, name: str, found: tuple[int, ...], wanted: Any) -> BundleMismatchError:
    return BundleMismatchError(
        f"assistant {assistant.name!r} was made for another model: {name} is {found} there and {wanted} here",
        mend="fit a bundle for this model",
    )


@torch.no_grad()
def materialise(assistant: Assistant, trunk: Any) -> Any:
    """Return a model of its own that computes what the assistant does: LoRA merged, trained layers in place.

    The trunk's untouched tensors stay shared. Raises BundleMismatchError where the two do not fit.
    """
    check_fits(assistant, trunk)
    model = cut_trunk(trunk, int(trunk.config.num_hidden_layers))
    parameters = dict(model.named_parameters())
    for name, tensor in assistant.replaced().items():
        _set_weight(model, name, tensor.to(parameters[name]))
    for name, (a, b) in assistant.factors().items():
        base = parameters[name]
        change = assistant.shape.scale * (b.float() @ a.float())
        _set_weight(model, name, (base.float() + change.to(base.device)).to(base.dtype))
    return model.eval()


def _set_weight(model: Any, name: str, tensor: torch.Tensor) -> None:
    module, _, last = name.rpartition(".")
    setattr(model.get_submodule(module), last, torch.nn.Parameter(tensor, requires_grad=False))


def find_linears(model: Any, first: int, n_layers: int) -> dict[str, torch.nn.Linear]:
    """Return the linear modules inside layers `first` to `n_layers`, by name."""
    layers = find_layers(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and any(name.startswith(f"{layers}.{number}.") for number in range(first, n_layers))
    }


def find_layers(model: Any) -> str:
    """Return the name of the list of decoder layers; raise SettingsError where it cannot be told."""
    total = int(model.config.num_hidden_layers)
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) == total
        and name.rsplit(".", 1)[-1] in ("layers", "h")
    ]
    if len(found) != 1:
        raise SettingsError(
            "uld cannot find the decoder layers", value=found, allowed="one list of layers", mend="report the model"
        )
    return found[0]


def own_names(model: Any, shape: AssistantShape) -> Sequence[str]:
    """Return the parameters that training changes under `layers`: the layers and the final norm."""
    layers = find_layers(model)
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    outer = {id(parameter) for module in (head, embedding) for parameter in module.parameters()}
    return [
        name
        for name, parameter in model.named_parameters()
        if id(parameter) not in outer
        and not any(name.startswith(f"{layers}.{number}.") for number in range(shape.first_trained))
    ]


def count_flops(config: Any, shape: AssistantShape | None) -> float:
    """Return multiply-accumulates per token of a gated-MLP decoder: its linears and its head (attention left out).

    `shape` None is the target itself.
    """
    hidden, mlp = int(config.hidden_size), int(config.intermediate_size)
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or hidden // heads)
    kv = int(getattr(config, "num_key_value_heads", heads)) * size
    sides = [(hidden, heads * size), (hidden, kv), (hidden, kv), (heads * size, hidden)]
    sides += [(hidden, mlp), (hidden, mlp), (mlp, hidden)]
    layer = float(sum(rows * columns for rows, columns in sides))
    head = hidden * int(config.vocab_size)
    if shape is None:
        return int(config.num_hidden_layers) * layer + head
    lora = shape.rank * sum(rows + columns for rows, columns in sides) if shape.trainable == "lora" else 0
    return shape.n_layers * layer + (shape.n_layers - shape.first_trained) * lora + head
