"""Peak rates of accelerators from their vendors' data sheets, to compare with measured rates.

NVIDIA states the rates of its tensor cores for matrices with structured sparsity: 2 of 4 entries
are zero. Matrices here are dense, and their rate is half of that.
"""

from __future__ import annotations

from typing import NamedTuple


class DataSheet(NamedTuple):
    """Peak rates of one device.

    Attributes:
      matmul: FLOP/s of dense matrix products, by name in `machine_limits.PRECISIONS`.
      memory: bytes/s, read and written.
      source: the page or file with these numbers.
    """

    matmul: dict[str, float]
    memory: float
    source: str


# https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet
_H100 = "NVIDIA H100 Tensor Core GPU, data sheet"
_H200 = "NVIDIA H200 Tensor Core GPU, data sheet"
# https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/
#   nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf
_A100 = "NVIDIA A100 Tensor Core GPU, data sheet"
_V5E, _V5P = "https://cloud.google.com/tpu/docs/v5e", "https://cloud.google.com/tpu/docs/v5p"

# "default" is TF32 on these GPUs and bf16 on TPUs. Sheets give halved numbers for sparse matrices.
_HOPPER = {"default": 989e12 / 2, "float32": 67e12, "bf16": 1979e12 / 2}
_HOPPER_PCIE = {"default": 756e12 / 2, "float32": 51e12, "bf16": 1513e12 / 2}
_AMPERE = {"default": 156e12, "float32": 19.5e12, "bf16": 312e12}

#: Data sheets by `jax.Device.device_kind`.
DATA_SHEETS: dict[str, DataSheet] = {
    "NVIDIA H100 80GB HBM3": DataSheet(_HOPPER, 3.35e12, f"{_H100} (SXM)"),
    "NVIDIA H100 PCIe": DataSheet(_HOPPER_PCIE, 2.0e12, f"{_H100} (PCIe)"),
    "NVIDIA H200": DataSheet(_HOPPER, 4.8e12, f"{_H200} (SXM)"),
    "NVIDIA A100-SXM4-80GB": DataSheet(_AMPERE, 2.039e12, f"{_A100} (80 GB SXM)"),
    "NVIDIA A100 80GB PCIe": DataSheet(_AMPERE, 1.935e12, f"{_A100} (80 GB PCIe)"),
    "TPU v5 lite": DataSheet({"default": 197e12}, 819e9, _V5E),
    "TPU v5e": DataSheet({"default": 197e12}, 819e9, _V5E),
    "TPU v5": DataSheet({"default": 459e12}, 2765e9, _V5P),
    "TPU v5p": DataSheet({"default": 459e12}, 2765e9, _V5P),
}
