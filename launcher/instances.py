"""What machines of an instance type have: GPUs, memory, disks. Facts of EC2, without prices."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU model."""

    name: str
    memory_gb: int
    capability: tuple[int, int]  # CUDA's compute capability

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bfloat16; Volta and Turing do not."""
        return self.capability >= (8, 0)


@dataclass(frozen=True)
class Instance:
    """A machine of one type."""

    vcpus: int
    memory_gb: float
    num_gpus: int = 0
    gpu: Gpu | None = None
    nvme_gb: int = 0
    """Disks of its own, used instead of a volume; 0: the job's volume is its disk."""
    efa: int = 0
    """Interfaces of the fast network between hosts."""
    architecture: str = "amd64"


K80 = Gpu("K80", 12, (3, 7))
V100 = Gpu("V100", 16, (7, 0))
V100_32 = Gpu("V100", 32, (7, 0))
T4 = Gpu("T4", 16, (7, 5))
A100 = Gpu("A100", 40, (8, 0))
A100_80 = Gpu("A100", 80, (8, 0))
A10G = Gpu("A10G", 22, (8, 6))
L4 = Gpu("L4", 22, (8, 9))
L40S = Gpu("L40S", 44, (8, 9))
H100 = Gpu("H100", 80, (9, 0))
H200 = Gpu("H200", 141, (9, 0))
B200 = Gpu("B200", 179, (10, 0))
B300 = Gpu("B300", 268, (10, 3))
PRO_4500 = Gpu("RTX PRO 4500", 32, (12, 0))
PRO_6000 = Gpu("RTX PRO 6000", 96, (12, 0))

_GPU_MACHINES = {
    # type: vCPUs, memory GiB, GPUs, GPU, NVMe GB, EFA interfaces
    "p2.xlarge": Instance(4, 61, 1, K80),
    "p2.8xlarge": Instance(32, 488, 8, K80),
    "p2.16xlarge": Instance(64, 732, 16, K80),
    "p3.2xlarge": Instance(8, 61, 1, V100),
    "p3.8xlarge": Instance(32, 244, 4, V100),
    "p3.16xlarge": Instance(64, 488, 8, V100),
    "p3dn.24xlarge": Instance(96, 768, 8, V100_32, 1800, 1),
    "g4dn.xlarge": Instance(4, 16, 1, T4, 125),
    "g4dn.2xlarge": Instance(8, 32, 1, T4, 225),
    "g4dn.4xlarge": Instance(16, 64, 1, T4, 225),
    "g4dn.8xlarge": Instance(32, 128, 1, T4, 900, 1),
    "g4dn.12xlarge": Instance(48, 192, 4, T4, 900, 1),
    "g4dn.16xlarge": Instance(64, 256, 1, T4, 900, 1),
    "p4d.24xlarge": Instance(96, 1152, 8, A100, 8000, 4),
    "p4de.24xlarge": Instance(96, 1152, 8, A100_80, 8000, 4),
    "g5.xlarge": Instance(4, 16, 1, A10G, 250),
    "g5.2xlarge": Instance(8, 32, 1, A10G, 450),
    "g5.4xlarge": Instance(16, 64, 1, A10G, 600),
    "g5.8xlarge": Instance(32, 128, 1, A10G, 900, 1),
    "g5.16xlarge": Instance(64, 256, 1, A10G, 1900, 1),
    "g5.12xlarge": Instance(48, 192, 4, A10G, 3800, 1),
    "g5.24xlarge": Instance(96, 384, 4, A10G, 3800, 1),
    "g5.48xlarge": Instance(192, 768, 8, A10G, 7600, 1),
    "g6.xlarge": Instance(4, 16, 1, L4, 250),
    "g6.2xlarge": Instance(8, 32, 1, L4, 450),
    "g6.4xlarge": Instance(16, 64, 1, L4, 600),
    "g6.8xlarge": Instance(32, 128, 1, L4, 900, 1),
    "g6.16xlarge": Instance(64, 256, 1, L4, 1880, 1),
    "g6.12xlarge": Instance(48, 192, 4, L4, 3760, 1),
    "g6.24xlarge": Instance(96, 384, 4, L4, 3760, 1),
    "g6.48xlarge": Instance(192, 768, 8, L4, 7520, 1),
    "g6e.xlarge": Instance(4, 32, 1, L40S, 250),
    "g6e.2xlarge": Instance(8, 64, 1, L40S, 450),
    "g6e.4xlarge": Instance(16, 128, 1, L40S, 600),
    "g6e.8xlarge": Instance(32, 256, 1, L40S, 900, 1),
    "g6e.16xlarge": Instance(64, 512, 1, L40S, 1900, 1),
    "g6e.12xlarge": Instance(48, 384, 4, L40S, 3800, 1),
    "g6e.24xlarge": Instance(96, 768, 4, L40S, 3800, 2),
    "g6e.48xlarge": Instance(192, 1536, 8, L40S, 7600, 4),
    "p5.4xlarge": Instance(16, 256, 1, H100, 3800, 1),
    "p5.48xlarge": Instance(192, 2048, 8, H100, 30400, 32),
    "p5e.48xlarge": Instance(192, 2048, 8, H200, 30400, 32),
    "p5en.48xlarge": Instance(192, 2048, 8, H200, 30400, 16),
    "p6-b200.48xlarge": Instance(192, 2048, 8, B200, 30400, 8),
    "p6-b300.48xlarge": Instance(192, 4096, 8, B300, 30400, 16),
    "p6e-gb200.36xlarge": Instance(144, 960, 4, B200, 22500, 17, "arm64"),
    "g7.2xlarge": Instance(8, 32, 1, PRO_4500, 440),
    "g7.4xlarge": Instance(16, 64, 1, PRO_4500, 875),
    "g7.8xlarge": Instance(32, 128, 1, PRO_4500, 930, 1),
    "g7.12xlarge": Instance(48, 192, 2, PRO_4500, 1900, 1),
    "g7.24xlarge": Instance(96, 384, 4, PRO_4500, 3800, 1),
    "g7.48xlarge": Instance(192, 768, 8, PRO_4500, 7600, 2),
    "g7e.2xlarge": Instance(8, 64, 1, PRO_6000, 1900),
    "g7e.4xlarge": Instance(16, 128, 1, PRO_6000, 1900),
    "g7e.8xlarge": Instance(32, 256, 1, PRO_6000, 1900, 1),
    "g7e.12xlarge": Instance(48, 512, 2, PRO_6000, 3800, 1),
    "g7e.24xlarge": Instance(96, 1024, 4, PRO_6000, 7600, 2),
    "g7e.48xlarge": Instance(192, 2048, 8, PRO_6000, 15200, 4),
}

_ODD_CPU_MACHINES = {
    "c4.8xlarge": Instance(36, 60),
    "c5n.9xlarge": Instance(36, 96),
    "c5n.18xlarge": Instance(72, 192),
    "t3.medium": Instance(2, 4),
    "t3.large": Instance(2, 8),
    "t3.xlarge": Instance(4, 16),
    "t3.2xlarge": Instance(8, 32),
}

_SIZES = "xlarge 2x 4x 8x 12x 16x 24x"
_CPU_FAMILIES = {
    # family: memory GiB of a vCPU, sizes
    "c4": (1.875, "xlarge 2x 4x"),
    "c5": (2, "xlarge 2x 4x 9x 18x"),
    "c5n": (2.625, "xlarge 2x 4x"),
    "c6i": (2, f"{_SIZES} 32x"),
    "c7i": (2, f"large {_SIZES} 48x"),
    "c7i-flex": (2, "xlarge 2x 4x 8x 12x 16x"),
    "c8i": (2, f"{_SIZES} 32x 48x 96x"),
    "c8i-flex": (2, "xlarge 2x 4x 8x 12x 16x"),
    "m4": (4, "xlarge 2x 4x 10x 16x"),
    "m5": (4, "large xlarge 2x 4x 12x 24x"),
    "m6i": (4, f"large {_SIZES} 32x"),
    "m7i": (4, f"large {_SIZES} 48x"),
    "m7i-flex": (4, "large xlarge 2x 4x 8x 12x 16x"),
    "m8i": (4, f"large {_SIZES} 32x 48x 96x"),
    "m8i-flex": (4, "large xlarge 2x 4x 8x 12x 16x"),
    "r5": (8, f"large {_SIZES}"),
    "r5d": (8, f"large {_SIZES}"),
    "r6i": (8, f"large {_SIZES} 32x"),
    "r7i": (8, f"large {_SIZES} 48x"),
    "r8i": (8, f"large {_SIZES} 32x 48x 96x"),
    "r8i-flex": (8, "large xlarge 2x 4x 8x 12x 16x"),
}
_R5D_NVME_GB = 37.5  # of a vCPU


def _cpu_machines() -> dict[str, Instance]:
    """The families whose sizes are multiples of each other."""
    machines = {}
    for family, (memory_gb, sizes) in _CPU_FAMILIES.items():
        for size in sizes.split():
            vcpus = {"large": 2, "xlarge": 4}.get(size) or 4 * int(size.rstrip("x"))
            nvme_gb = int(_R5D_NVME_GB * vcpus) if family == "r5d" else 0
            full = size if size.endswith("large") else f"{size}large"
            machines[f"{family}.{full}"] = Instance(vcpus, memory_gb * vcpus, nvme_gb=nvme_gb)
    return machines


INSTANCES = {
    f"ml.{name}": machine
    for name, machine in (_GPU_MACHINES | _cpu_machines() | _ODD_CPU_MACHINES).items()
}
"""SageMaker's training types by name. Trainium is not here: rayasr has nothing to run on it."""
