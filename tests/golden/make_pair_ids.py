"""Writes pair_ids.json: what transformers makes of pairs, for tests/tokenize.rs to compare id by id.

    pip install transformers==5.23.0 tokenizers==0.23.3
    python tests/golden/make_pair_ids.py

The versions matter: tokenizers decides which sequence is the longer one by its true length in 0.23.3; its
releases which stop tokenizing at the limit decide by less. Texts stay below a thousand tokens and limits
above twenty, for the library keeps what it cuts off in pieces, and every piece of one text with every piece
of the other.

A case is [tokenizer, truncation side, query, context, limit, ids, how many types are 1, the last ones].
A text is [piece, times]: the piece, so many times over, so that long texts stay short in the file.
"""

import json
from pathlib import Path

from transformers import AutoTokenizer

GOLDEN = Path(__file__).parent
TOKENIZERS = {
    "bert": GOLDEN / "bert",
    "roberta": GOLDEN / "roberta",
    "xlm-roberta": GOLDEN / "xlm-roberta",
    "mini-en": GOLDEN.parent.parent / "python" / "rerankd" / "models" / "mini-en",
}

TEXTS: dict[str, tuple[str, int]] = {
    "one": ("pizza", 1),
    "short": ("what is a panda?", 1),
    "sentence": ("The giant panda is a bear species endemic to China. ", 1),
    "long": ("The giant panda, internationalization and 3.14159; ", 12),
    "longer": ("Rust is a systems language that runs blazingly fast. ", 17),
    "very long": ("counterintuitively, electroencephalographs hum along ", 40),
    "one word": ("antidisestablishmentarianism", 6),
    "unbroken": ("0123456789", 12),
    "unicode": ("Crème brûlée à la façon de Zürich — naïve café ﬁ ½ Ａ １ ", 3),
    "scripts": ("東京タワー は高い。 مرحبا بالعالم Привет, мир! नमस्ते ", 4),
    "emoji": ("🔥👨‍👩‍👧‍👦🇩🇪 e\u0301 ", 5),
    "blank": (" ", 3),
    "controls": ("\u200b\u00ad\u0000\u0007\ufeff\ufffd", 2),
    "spaces": ("  a \t\r\n  b\u00a0\u3000c  ", 6),
    "specials": ("[CLS] a [SEP] b <s> c </s> d <mask>[MASK] [PAD]<pad>[UNK] ", 2),
    "many specials": ("[SEP]</s>", 70),
    "case": ("MiXeD CaSe ÀÉÎ İstanbul ǅ ẞ", 2),
    "code": ('fn main() { println!("{}", x[0] + 1e-3); }\n\t// TODO_list\n', 3),
}

PAIRS = [
    ("short", "sentence"),
    ("sentence", "short"),
    ("one", "long"),
    ("long", "one"),
    ("long", "longer"),
    ("longer", "long"),
    ("long", "long"),
    ("long", "very long"),
    ("very long", "long"),
    ("very long", "very long"),
    ("very long", "longer"),
    ("longer", "very long"),
    ("one word", "unbroken"),
    ("unbroken", "one word"),
    ("short", "unicode"),
    ("unicode", "scripts"),
    ("scripts", "emoji"),
    ("emoji", "unicode"),
    ("one", "blank"),
    ("blank", "short"),
    ("blank", "blank"),
    ("short", "controls"),
    ("controls", "spaces"),
    ("spaces", "case"),
    ("specials", "sentence"),
    ("sentence", "specials"),
    ("specials", "many specials"),
    ("many specials", "specials"),
    ("many specials", "very long"),
    ("very long", "many specials"),
    ("case", "code"),
    ("code", "case"),
]

LIMITS = [21, 22, 33, 64, 127, 128]


def main() -> None:
    cases: list[list[object]] = []
    for name, directory in TOKENIZERS.items():
        for side in ("right", "left"):
            tokenizer = AutoTokenizer.from_pretrained(directory, truncation_side=side)
            for index, (query, context) in enumerate(PAIRS):
                # Two limits a pair, an odd and an even one, in turn; every limit meets every kind of pair.
                limits = [LIMITS[index % 3 * 2], LIMITS[(index + 1) % 3 * 2 + 1]]
                if name == "mini-en" and side == "right" and query == context == "very long":
                    limits.append(512)
                for limit in limits if side == "right" else limits[index % 2 :][:1]:
                    pair = [piece * times for piece, times in (TEXTS[query], TEXTS[context])]
                    encoded = tokenizer(*pair, truncation="longest_first", max_length=limit)
                    ids = encoded["input_ids"]
                    types = encoded.get("token_type_ids", [0])  # what the model is handed, by class
                    assert types == sorted(types)  # so that their sum says it all
                    assert set(types) <= {0, 1}
                    cases.append([name, side, query, context, limit, ids, sum(types)])
    lines = [json.dumps(case, separators=(",", ":")) for case in cases]
    texts = json.dumps(TEXTS)
    written = ",\n".join(lines)
    (GOLDEN / "pair_ids.json").write_text(f'{{"texts": {texts},\n"cases": [\n{written}\n]}}\n')


if __name__ == "__main__":
    main()
