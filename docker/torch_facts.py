"""Print which torch is installed and for which GPUs it was compiled, as JSON."""

import json

import torch

# torch.cuda.get_arch_list() says nothing where no GPU is; a CPU build has no such function.
arch_flags = getattr(torch._C, "_cuda_getArchFlags", None)
facts = {
    "torch": torch.__version__,
    "cuda": torch.version.cuda or "",
    "arch_list": (arch_flags() or "") if arch_flags else "",
}
print(json.dumps(facts))
