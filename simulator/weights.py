"""The file of the weights that a training makes: small and real.

It is a tar with a LoRA and the captions for Flux, a zip with a LoRA and two texts for Qwen, a tar with a LoRA and its
token for SDXL. The LoRA is a safetensors file: eight bytes with the length of the header (little endian), the header as
JSON, and the tensors.
"""

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Final

from simulator.model import Family
from simulator.training_logs import LABEL

CONTENT_TYPES: Final = {"tar": "application/x-tar", "zip": "application/zip"}
"""The content type of each file of weights by its extension."""

_HEAD = 512
_WIDTH = 4
_CAPTIONS = 20
_LAYERS: Final[dict[Family, tuple[str, ...]]] = {
    "flux": (
        "transformer.single_transformer_blocks.0.attn.to_q",
        "transformer.transformer_blocks.0.attn.to_k",
    ),
    "qwen": ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k"),
    "sdxl": ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",),
}


def make(family: Family, *, rank: int, seed: int, word: str, images: int, damage: str | None = None) -> bytes:
    """The file of the weights.

    Args:
        family: The models that were trained.
        rank: The rank of the LoRA.
        seed: The tensors follow from it.
        word: What the training taught, for the captions.
        images: The number of images, each with a caption.
        damage: "torn" if the safetensors file lacks its end, "cut" if the whole file ends within the LoRA.
    """
    lora = safetensors(_LAYERS[family], rank=rank, seed=seed)
    if damage == "torn":
        lora = lora[: len(lora) * 3 // 4]
    content = _packed(family, lora, word=word, images=images)
    if damage == "cut":
        # Not near the end: a tar without its last block is whole, and may end in much padding.
        return content[: _HEAD + len(lora) // 2]
    return content


def safetensors(layers: tuple[str, ...], *, rank: int, seed: int) -> bytes:
    """A safetensors file with two small matrices for each of these layers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", "rank": str(rank)}}
    data = b""
    for layer in layers:
        for name, shape in (("lora_A", [rank, _WIDTH]), ("lora_B", [_WIDTH, rank])):
            size = rank * _WIDTH
            numbers = [((seed + each) % 1000 - 500) / 10_000 for each in range(size)]
            end = len(data) + 4 * size
            header[f"{layer}.{name}.weight"] = {
                "dtype": "F32",
                "shape": shape,
                "data_offsets": [len(data), end],
            }
            data += struct.pack(f"<{size}f", *numbers)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _packed(family: Family, lora: bytes, *, word: str, images: int) -> bytes:
    match family:
        case "flux":
            captions = {
                f"output/{LABEL}/captions/{number}.txt": f"a photo of {word}\n".encode()
                for number in range(min(images, _CAPTIONS))
            }
            return _tar({f"output/{LABEL}/lora.safetensors": lora} | captions)
        case "qwen":
            return _zip(
                {
                    "lora.safetensors": lora,
                    "settings.txt": f"default_caption: {word}\n".encode(),
                    "config.yaml": b"job: extension\n",
                }
            )
        case "sdxl":
            special = json.dumps({word: "<s0><s1>"}).encode()
            return _tar({"lora.safetensors": lora, "special_params.json": special})


def _tar(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _zip(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()
