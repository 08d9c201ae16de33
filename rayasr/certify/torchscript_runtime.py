"""torch.jit, driven the way WeNet's C++ runtime drives a model (runtime/core/decoder).

Only what a `torch::jit` module offers is used: features arrive in pieces of the decoding window,
caches travel between calls, CTC search happens outside, and `forward_attention_decoder` scores the
hypotheses that it found.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayasr.config import Mode
from rayasr.data.fbank import Fbank
from rayasr.export.info import ExportedModel, ExportInfo
from rayasr.export.runtime_search import nearest_mode, search
from rayasr.export.torchscript import int8_kernels, load_script
from rayasr.tokenizer import Tokenizer


class TorchScriptRuntime:
    """One file, or `module` in its place, called with the chunks that `model` says.

    Raises CheckpointError for a file that cannot be loaded, DataError for its units.txt.
    """

    name = "torch.jit"
    version = torch.__version__
    front_end = "rayasr"

    def __init__(
        self, folder: Path, info: ExportInfo, model: ExportedModel, module: Any = None
    ) -> None:
        self.mode = nearest_mode(info.mode, has_decoders=True)
        self._kernels = int8_kernels if model.precision == "int8" else nullcontext
        self._fbank = Fbank(info.features)
        self._tokenizer = Tokenizer.load(folder)
        if module is None:
            with self._kernels():
                module = load_script(folder / model.files[0])
        self._driver = RuntimeDriver(
            module,
            model.chunk_size,
            model.left_chunks,
            beam_size=info.decoding["beam_size"],
            ctc_weight=info.decoding["ctc_weight"],
            reverse_weight=info.decoding["reverse_weight"],
        )

    def transcribe(self, samples: Tensor) -> str:
        """See Runtime."""
        with self._kernels():
            return self._tokenizer.decode(self._driver.units(self._fbank(samples), self.mode))

    def log_probs(self, samples: Tensor, units: Sequence[int]) -> list[Tensor]:
        """See OpenRuntime."""
        with self._kernels():
            encoder_out, log_probs = self._driver.encode(self._fbank(samples))
            return [log_probs, *(part[0] for part in self._driver.decoders([units], encoder_out))]


class RuntimeDriver:
    """One exported model with the runtime's options; `chunk_size` <= 0: everything at once."""

    def __init__(
        self,
        module: Any,  # torch.jit.load(path)
        chunk_size: int,
        left_chunks: int = -1,
        *,
        beam_size: int = 10,
        ctc_weight: float = 0.5,
        reverse_weight: float = 0.0,
    ) -> None:
        self.module = module.eval()
        self.rate = module.subsampling_rate()
        self.right_context = module.right_context()
        self.sos = module.sos_symbol()
        self.eos = module.eos_symbol()
        self.bidirectional = module.is_bidirectional_decoder()
        self.chunk_size, self.left_chunks = chunk_size, left_chunks
        self.settings = {
            "beam_size": beam_size,
            "ctc_weight": ctc_weight,
            "reverse_weight": reverse_weight,
        }

    def units(self, features: Tensor, mode: Mode) -> tuple[int, ...]:
        """What is found in one utterance; features (T, F) are raw fbank."""
        encoder_out, log_probs = self.encode(features)
        decoders = partial(self.decoders, encoder_out=encoder_out)
        return search(log_probs, mode, self.settings, self.eos, decoders)

    @torch.no_grad()
    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder frames (1, T', D) and CTC's log-probabilities (T', V), chunk by chunk."""
        att_cache = cnn_cache = torch.zeros(0, 0, 0, 0)
        offset, outputs = 0, [torch.zeros(1, 0, 0)]
        for window in self._windows(features):
            out, att_cache, cnn_cache = self.module.forward_encoder_chunk(
                window[None], offset, self.chunk_size * self.left_chunks, att_cache, cnn_cache
            )
            offset += out.size(1)
            outputs.append(out)
        encoder_out = torch.cat(outputs[1:] or outputs, dim=1)
        if not offset:
            return encoder_out, encoder_out[0]
        log_probs = torch.cat([self.module.ctc_activation(out)[0] for out in outputs[1:]])
        return encoder_out, log_probs

    @torch.no_grad()
    def decoders(self, rows: Sequence[Sequence[int]], encoder_out: Tensor) -> list[Tensor]:
        """Log-probabilities (N, L + 1, V) of what follows each unit, by one decoder or by both."""
        lengths = torch.tensor([len(row) + 1 for row in rows])
        hyps = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)  # padded with 0
        for i, row in enumerate(rows):
            hyps[i, : lengths[i]] = torch.tensor([self.sos, *row])
        # any weight above 0 runs the decoder from right to left too
        left, right = self.module.forward_attention_decoder(
            hyps, lengths, encoder_out, 0.5 if self.bidirectional else 0.0
        )
        return [left, right] if self.bidirectional else [left]

    def _windows(self, features: Tensor) -> Iterator[Tensor]:
        """Features of each call: what is left of the one before, and a chunk's new frames.

        A rest too short for more than one encoder frame is dropped, as the runtime does.
        """
        kept = 1 + self.right_context - self.rate  # frames that the next window needs again
        first = (self.chunk_size - 1) * self.rate + self.right_context + 1
        start, cached = 0, 0
        while start < len(features):
            new = first if start == 0 else self.chunk_size * self.rate
            if self.chunk_size <= 0:
                new = len(features)
            end = min(start + new, len(features))
            if cached + end - start > self.right_context + 1:
                yield features[start - cached : end]
                if end - start >= kept:
                    cached = kept
            start = end
