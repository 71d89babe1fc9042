#!/usr/bin/env bash
# tokenizers 0.23.3: the normalizer Precompiled, which holds a SentencePiece model's table of
# replacements, drops marks behind letters that the table replaces.
#
# It looks up a letter with its marks as one key, takes what the table has for the beginning of that
# key, and forgets the rest. SentencePiece itself goes on behind what it replaced. So the full-width
# letter U+FF41 with an acute accent is "á" to the model and "a" to its tokenizer.json, in silence.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tokenizers==0.23.3 sentencepiece==0.2.3 protobuf==7.36.2
"$work/venv/bin/python" - <<'PY'
import io
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import normalizers

model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a b c d e"] * 20), model_writer=model, model_type="unigram", vocab_size=9, minloglevel=2)
processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
table = proto.ModelProto.FromString(model.getvalue()).normalizer_spec.precompiled_charsmap
precompiled = normalizers.Precompiled(table)
for text, right, seen in [
    ("e\u0301", "\u00e9", "\u00e9"),  # the table has letter and mark together
    ("\uff41\u0301", "\u00e1", "a"),
    ("\u00bd\u0301", "1\u20442\u0301", "1\u20442"),
]:
    theirs = processor.normalize(text).replace("\u2581", "")
    ours = precompiled.normalize_str(text)
    print(f"{ascii(text)}: SentencePiece {ascii(theirs)}, tokenizers {ascii(ours)}")
    assert (theirs, ours) == (right, seen)
PY
