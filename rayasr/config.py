"""Every setting of a recipe: YAML to frozen, checked values.

One class per section; the network's are in `rayasr.model_config`, those of features in
`rayasr.feature_config`. The docstring under a field is
its documentation: the reference page `docs/recipe.md` and `rayasr config show --reference` are
generated from it.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from rayasr.feature_config import FeatureConfig
from rayasr.model_config import ModelConfig, fewest_frames
from rayasr.settings import Section, check_settings, load_settings

DECODE_MODES = (
    "ctc_greedy_search",
    "ctc_prefix_beam_search",
    "attention_rescoring",
    "attention",
)
"""Cheapest first: with equal errors on dev the earlier one becomes the default."""

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Mode = Literal["ctc_greedy_search", "ctc_prefix_beam_search", "attention_rescoring", "attention"]


class CorpusConfig(Section):
    path: str
    """Folder (or manifest file) of the corpus; `--corpus` replaces the whole list."""
    format: Literal["auto", "aishell", "kaldi", "wenet_list", "librispeech", "table"] = "auto"
    """Layout; `auto` looks."""
    weight: float = Field(1.0, gt=0.0)
    """How often each training utterance is used per epoch: floor(weight) times, and once more with
    the remaining probability, drawn by (seed, epoch, utterance)."""


class TextConfig(Section):
    case: Literal["keep", "upper", "lower"] = "keep"
    """Letter case of all text, training and scoring alike."""
    punctuation: Literal["keep", "remove"] = "remove"
    """Whether punctuation stays; apostrophes inside words always do."""
    spaces: Literal["keep", "remove"] = "keep"
    """`remove` for languages written without spaces (Mandarin); between two Latin words a space
    always stays."""


class UnitsConfig(Section):
    kind: Literal["char", "bpe", "mixed"] = "char"
    """Characters (a space becomes `▁`), sentencepiece BPE, or characters for CJK and BPE for the
    rest."""
    bpe_size: int = Field(500, ge=20)
    """Number of BPE pieces, for `bpe` and `mixed`."""
    sos_eos: Literal["third", "last"] = "third"
    """Where `<sos/eos>` stands in units.txt: id 2 as in WeNet's current recipes, or the last id."""
    file: str | None = None
    """A fixed units.txt to use instead of building one from the training text."""


class StoreConfig(Section):
    payload: Literal["fbank", "pcm"] = "fbank"
    """What a shard holds: float16 fbank, one variant per speed factor, or int16 samples, from which
    fbank, dither and speed are computed while training."""
    shard_utterances: int = Field(512, ge=1)
    """Utterances per shard, and so per Ray Data task."""
    min_seconds: float = Field(0.1, ge=0.0)
    """Shorter recordings are rejected, but for those of a test split."""
    max_seconds: float = Field(40.0, gt=0.0, allow_inf_nan=True)
    """Longer recordings are rejected, but for those of a test split."""
    max_reject_fraction: float = Field(0.05, ge=0.0, le=1.0)
    """More rejects than this stop `data prepare`; the table of rejects is kept."""
    dev_fraction: float = Field(0.05, gt=0.0, lt=0.5)
    """Share of the training speakers held out where a corpus has no dev split."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_seconds > self.max_seconds:
            raise ValueError("store.min_seconds must not exceed store.max_seconds")
        return self


class SpecAugmentConfig(Section):
    time_masks: int = Field(2, ge=0)
    """Time masks per utterance."""
    time_mask_frames: int = Field(50, ge=0)
    """Longest time mask in frames."""
    time_mask_fraction: float = Field(1.0, gt=0.0, le=1.0)
    """Longest time mask as a share of the utterance."""
    frequency_masks: int = Field(2, ge=0)
    """Frequency masks per utterance."""
    frequency_mask_bins: int = Field(10, ge=0)
    """Widest frequency mask in mel bins."""


class StringingConfig(Section):
    fraction: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the utterances that are strung together with others of the same speaker."""
    start_frames: int = Field(200, ge=1)
    """Longest string, in frames, at the start of training."""
    max_frames: int = Field(1200, ge=1)
    """Longest string, in frames, after the ramp."""
    ramp_fraction: float = Field(0.4, ge=0.0, le=1.0)
    """Share of the epochs over which the longest string grows."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.start_frames > self.max_frames:
            raise ValueError("stringing.start_frames must not exceed stringing.max_frames")
        return self


class AugmentConfig(Section):
    speeds: tuple[Annotated[float, Field(ge=0.5, le=2.0)], ...] = (0.9, 1.0, 1.1)
    """Speed factors; each utterance takes one per epoch, drawn by (seed, epoch, utterance)."""
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig()
    """Time and frequency masks; null switches them off."""
    substitutions: int = Field(0, ge=0)
    """Spec-sub: stretches per utterance that are replaced by earlier ones."""
    substitution_frames: int = Field(30, ge=0)
    """Longest such stretch in frames."""
    trim_frames: int = Field(0, ge=0)
    """Spec-trim: longest piece cut off the end, in frames; at most half of the utterance."""
    frequency_warp: float = Field(0.0, ge=0.0, lt=0.5)
    """Mel axis stretched by a factor drawn from 1 ± this."""
    stringing: StringingConfig = StringingConfig()
    """Utterances of one speaker strung together to longer ones."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.speeds:
            raise ValueError("augment.speeds must not be empty; [1.0] leaves speech as it is")
        return self


class BatchConfig(Section):
    micro_batches: int = Field(1, ge=1)
    """Micro-batches of one step, shared out over the workers; so also the most workers possible."""
    frames_per_step: int | None = Field(None, ge=1)
    """Frames of one step over all workers. Unset: micro_batches x max_padded_frames."""
    max_padded_frames: int | Literal["auto"] = 20000
    """Most frames of a micro-batch, padding included; `auto` divides only what the device cannot
    hold."""
    max_utterances: int = Field(256, ge=1)
    """Most utterances of a micro-batch."""
    max_padded_units: int = Field(8192, ge=1)
    """Most units of a micro-batch, padding included."""
    static_utterances: int | None = Field(None, ge=1)
    """A fixed number of utterances per micro-batch instead of a bound of frames, as WeNet's static
    batches."""
    shuffle_window: int = Field(4096, ge=1)
    """Utterances shuffled together before they are sorted by length into micro-batches."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_padded_frames == "auto":
            if self.frames_per_step is None:
                raise ValueError("batch.max_padded_frames: auto needs batch.frames_per_step")
        elif self.max_padded_frames < 1:
            raise ValueError("batch.max_padded_frames must be at least 1, or auto")
        return self


class OptimConfig(Section):
    name: Literal["adam", "adamw"] = "adam"
    """Optimizer; adamw decays matrices only."""
    lr: float = Field(0.001, gt=0.0)
    """Peak learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Adam's moment decays."""
    eps: float = Field(1e-8, gt=0.0)
    """Adam's epsilon."""
    weight_decay: float = Field(0.0, ge=0.0)
    """Decoupled weight decay, for adamw."""
    schedule: Literal["warmup", "cosine"] = "warmup"
    """WeNet's warm-up (then 1/sqrt(step)), or linear warm-up and a cosine to zero over the run."""
    warmup_steps: int | None = Field(None, ge=1)
    """Steps of warm-up; unset: warmup_fraction of the run."""
    warmup_fraction: float = Field(0.08, gt=0.0, lt=1.0)
    """Warm-up as a share of the run's steps, where warmup_steps is unset."""
    max_grad_norm: float = Field(5.0, gt=0.0, allow_inf_nan=True)
    """Gradients are clipped to this norm."""
    ema_decay: float = Field(0.0, ge=0.0, lt=1.0)
    """Decay per step of the moving average of the weights, which is then the model; 0: none."""


class TrainConfig(Section):
    epochs: int = Field(80, ge=1)
    """Passes over the training split."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = "auto"
    """Number format of the forward pass: auto is bf16 on a GPU that has it, fp16 on another GPU,
    fp32 on a CPU."""
    threads_per_worker: int = Field(1, ge=1)
    """CPU threads of one training worker."""
    compile: bool = False
    """Compile the encoder with torch.compile."""
    validate_every_epochs: int = Field(1, ge=1)
    """Epochs between two validations; the last epoch always has one."""
    validate_every_steps: int | None = Field(None, ge=1)
    """Steps between two more validations."""
    log_every_steps: int = Field(20, ge=1)
    """Steps between two lines of metrics.jsonl; also how often the GPU is waited for."""
    max_nonfinite_steps: int = Field(20, ge=1)
    """So many steps in a row with a non-finite gradient end the run."""
    autocheck: bool = True
    """Before the first step, validate once and try the largest micro-batch."""


class CheckpointConfig(Section):
    every_steps: int | None = Field(None, ge=1)
    """Steps between two checkpoints, besides the one after each validation."""
    every_minutes: float = Field(10.0, gt=0.0, allow_inf_nan=True)
    """Longest time between two checkpoints."""
    keep_last: int = Field(2, ge=1)
    """Newest checkpoints kept."""
    keep_best: int = Field(5, ge=0)
    """Checkpoints with the lowest validation loss kept, for averaging."""
    mirror: str | None = None
    """An s3:// place that finished checkpoints and the model folder are copied to."""


class AverageConfig(Section):
    best: int = Field(5, ge=1)
    """How many of the best checkpoints are averaged into the model."""


class DecodeConfig(Section):
    modes: tuple[Mode, ...] = (
        "ctc_greedy_search",
        "ctc_prefix_beam_search",
        "attention_rescoring",
    )
    """Searches that `rayasr run` reports; the best of them on dev becomes the model's default."""
    beam_size: int = Field(10, ge=1)
    """Beam of the prefix and the attention search."""
    ctc_weights: tuple[Annotated[float, Field(ge=0.0)], ...] = (0.1, 0.3, 0.5, 0.7, 1.0)
    """CTC weights for rescoring that are tried on dev."""
    reverse_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Share of the right-to-left decoder in rescoring."""
    length_penalty: float = 0.0
    """Exponent of the length by which attention scores are divided."""
    max_padded_frames: int = Field(20000, ge=1)
    """Frames of a decoding batch; results do not depend on it."""
    unit: Literal["char", "word", "mixed"] = "char"
    """What an error is counted in: characters (CER), words (WER), or characters and Latin words."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.modes:
            raise ValueError(
                f"decode.modes must not be empty; choose from {', '.join(DECODE_MODES)}"
            )
        return self


class Recipe(Section):
    """A whole recipe."""

    name: str = "recipe"
    """Name, for reports."""
    seed: int = Field(777, ge=0, lt=2**63)
    """Seed of everything random."""
    corpora: tuple[CorpusConfig, ...] = ()
    """Corpora to train on together."""
    text: TextConfig = TextConfig()
    """How text is normalised."""
    units: UnitsConfig = UnitsConfig()
    """What the model writes."""
    features: FeatureConfig = FeatureConfig()
    """What the model hears."""
    store: StoreConfig = StoreConfig()
    """How features are kept."""
    augment: AugmentConfig = AugmentConfig()
    """How training data is varied."""
    batch: BatchConfig = BatchConfig()
    """What makes a step."""
    model: ModelConfig = ModelConfig()
    """The network and its loss."""
    optim: OptimConfig = OptimConfig()
    """How the weights move."""
    train: TrainConfig = TrainConfig()
    """How long, how precise, how often checked."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is kept."""
    average: AverageConfig = AverageConfig()
    """What becomes the model."""
    decode: DecodeConfig = DecodeConfig()
    """How it is searched and scored."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        fewest = fewest_frames(1, self.model.encoder.subsampling)
        if self.features.num_mel_bins < fewest:
            raise ValueError(
                f"model.encoder.subsampling {self.model.encoder.subsampling} needs "
                f"features.num_mel_bins {fewest} or more"
            )
        return self

    def speeds(self, split: str) -> tuple[float, ...]:
        """Speed factors a split has: augment.speeds for training, else 1 alone."""
        return self.augment.speeds if split == "train" else (1.0,)

    def digest(self, *sections: str) -> str:
        """Sixteen hex digits over the named sections (all, where none is named)."""
        values = self.model_dump(mode="json", include=set(sections) or None)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def store_digest(self) -> str:
        """What a store depends on: two recipes with one digest can share a store.

        Of units.file only whether there is one; what is in it is an input, as the corpus is.
        """
        values = self.model_dump(
            mode="json",
            include={
                "text": True,
                "units": True,
                "features": True,
                "store": {
                    "payload",
                    "shard_utterances",
                    "min_seconds",
                    "max_seconds",
                    "dev_fraction",
                },
            },
        )
        if self.units.file is not None:
            values["units"]["file"] = "given"
        if self.store.payload == "fbank":  # pcm computes speeds and dither while training
            values["speeds"] = self.augment.speeds
        else:
            del values["features"]["dither"]
        values["subsampling"] = self.model.encoder.subsampling  # decides what is too short for CTC
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML and apply `key.sub=value` overrides; raises ConfigError."""
    return load_settings(path, Recipe, overrides)


def parse_recipe(values: dict[str, Any], source: str = "recipe") -> Recipe:
    """Check plain values; raises ConfigError naming the field, and the nearest one if unknown."""
    return check_settings(values, Recipe, source)


def with_corpora(recipe: Recipe, folders: Sequence[str | Path]) -> Recipe:
    """The recipe with its corpora replaced by these folders, where any are given."""
    if not folders:
        return recipe
    corpora = tuple(CorpusConfig(path=str(folder)) for folder in folders)
    return recipe.model_copy(update={"corpora": corpora})


def dump_recipe(recipe: Recipe) -> str:
    """YAML of the resolved recipe, loadable again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
