"""A certificate of an int8 model that loses too much, for tests of what is made of it."""

from rayasr.certify.certificate import Certificate, Outcome, Reference, Row

GOOD = Outcome(1.0, 2, 200, 0.0215)
BAD = Outcome(2.5, 5, 200, 0.0123)
ROW = Row(
    model="final_quant.zip",
    runtime="torch.jit",
    version="2.13.0",
    front_end="rayasr",
    precision="int8",
    mode="ctc_greedy_search",
    chunk_size=16,
    left_chunks=4,
    size_bytes=3_400_000,
    outcome=BAD,
    checkpoint=GOOD,
    agreeing=30,
    utterances=32,
    largest_difference=0.4,
    faults=("loses 1.50 points",),
)
CERTIFICATE = Certificate(
    folder="out",
    source="run/model",
    default_mode="attention_rescoring",
    corpus="data",
    split="test",
    utterances=32,
    unit="char",
    text_rule="text NFKC",
    max_loss=0.3,
    checkpoint=(Reference("attention_rescoring", 16, -1, GOOD),),
    rows=(ROW,),
    refused=("sherpa-onnx on model.onnx: other features",),
    faults=("units.txt line 5 is wrong",),
    advice="export again",
    files={},
    versions={},
    made_at="2026-11-25T00:00:00+00:00",
)
