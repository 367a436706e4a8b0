"""A Unigram tokenizer of XLM-R's size, 250,002 entries, made from a seed.

What a bench needs of it is realistic cost: as many pieces, as long, of as many scripts, in a trie of that
depth; and English that splits as it does in XLM-R, into about 1.3 pieces a word. The pieces themselves mean
nothing.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ENTRIES = 250_002
SPACE = "▁"
MINI_EN = Path(__file__).resolve().parent.parent / "python" / "rerankd" / "models" / "mini-en"

# Words that are one piece each; the rest of English is made of prefixes and endings. Of a Zipf-like text
# 1,500 words cover three quarters, which gives the 1.3.
WHOLE_WORDS = 1_500
ENGLISH_SHARE = 0.15
# The first and last code points of the letters that are pieces by themselves, so that hardly any text is
# unknown.
SCRIPTS = {
    "latin": (0x00C0, 0x017F),
    "greek": (0x03B1, 0x03C9),
    "cyrillic": (0x0430, 0x0451),
    "hebrew": (0x05D0, 0x05EA),
    "arabic": (0x0621, 0x064A),
    "devanagari": (0x0905, 0x0939),
    "thai": (0x0E01, 0x0E2E),
    "kana": (0x3041, 0x30FE),
    "han": (0x4E00, 0x5FFF),
    "hangul": (0xAC00, 0xB7FF),
}
# Shares of the generated pieces, and how many units (syllables or letters) a piece has: at least, at most.
GENERATED = {
    "latin": (0.50, 2, 5),
    "cyrillic": (0.17, 3, 9),
    "arabic": (0.08, 2, 6),
    "han": (0.08, 2, 4),
    "greek": (0.04, 3, 8),
    "hangul": (0.04, 2, 4),
    "devanagari": (0.03, 2, 6),
    "thai": (0.03, 2, 7),
    "hebrew": (0.02, 2, 6),
    "kana": (0.01, 2, 5),
}


def english_words() -> list[str]:
    """mini-en's whole words, roughly the most frequent first, as BERT's vocabulary has them."""
    tokenizer = json.loads((MINI_EN / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    return [word for word in ordered if re.fullmatch("[a-z]{2,}|a|i", word)]


def zipf(count: int) -> npt.NDArray[np.float64]:
    """Probabilities of `count` ranks. The 2.7 is Mandelbrot's: without it the first word is a tenth of all
    text.
    """
    weights = 1.0 / (np.arange(count, dtype=np.float64) + 2.7)
    return weights / np.sum(weights)


def english_pieces() -> dict[str, float]:
    """Pieces of English to their probability within English: whole words, and what the other words are
    made of.
    """
    words = english_words()
    shares = dict(zip(words, zipf(len(words)).tolist(), strict=True))
    pieces: dict[str, float] = {}
    for rank, (word, share) in enumerate(shares.items()):
        if rank < WHOLE_WORDS:
            pieces[SPACE + word] = share
            pieces[SPACE + word.capitalize()] = share / 8
            continue
        for cut in range(2, len(word) - 1):
            for piece in (SPACE + word[:cut], SPACE + word[:cut].capitalize(), word[cut:]):
                pieces[piece] = pieces.get(piece, 0.0) + share / (8 if piece[1:2].isupper() else 2)
    frequent = sorted(pieces, key=lambda piece: (-pieces[piece], piece))[:40_000]
    total = sum(pieces[piece] for piece in frequent)
    return {piece: pieces[piece] / total for piece in frequent}


def single_letters() -> list[str]:
    """Every character that must not be unknown."""
    ascii_letters = [chr(code) for code in range(0x21, 0x7F)]
    return ascii_letters + [chr(code) for low, high in SCRIPTS.values() for code in range(low, high + 1)]


def units(script: str) -> list[str]:
    """What a script's generated pieces are strung from: its letters, or for Latin its syllables."""
    if script != "latin":
        low, high = SCRIPTS[script]
        return [chr(code) for code in range(low, high + 1)]
    onsets = [*"bcdfghjklmnprstvwzčšžłñçğ", "st", "tr", "pr", "sch"]
    return [onset + vowel for onset in onsets for vowel in "aeiouáéíöüăą"]


def generated_pieces(rng: np.random.Generator, taken: set[str], count: int) -> list[str]:
    """`count` further pieces that look like words and word parts of many languages."""
    pieces: list[str] = []
    for script, (share, least, most) in GENERATED.items():
        wanted = round(share * count) if script != "kana" else count - len(pieces)
        alphabet = units(script)
        # Of the letters, the earlier ones far more often, so that pieces share prefixes as real ones do.
        odds = zipf(len(alphabet))
        end = len(pieces) + wanted
        while len(pieces) < end:
            letters = rng.choice(len(alphabet), size=(wanted, most), p=odds)
            lengths = rng.integers(least, most + 1, size=wanted)
            starts = rng.random(wanted) < 0.6
            for row, length, start in zip(letters.tolist(), lengths.tolist(), starts.tolist(), strict=True):
                piece = (SPACE if start else "") + "".join(alphabet[letter] for letter in row[:length])
                if piece not in taken and len(pieces) < end:
                    taken.add(piece)
                    pieces.append(piece)
    return pieces


def unigram() -> list[tuple[str, float]]:
    """The vocabulary: (piece, log-probability) in id order, laid out like XLM-R's."""
    rng = np.random.default_rng(20)
    english = english_pieces()
    letters = [letter for letter in [SPACE, *single_letters()] if letter not in english]
    room = ENTRIES - 5 - len(english) - len(letters)
    others = generated_pieces(rng, {*english, *letters}, room)
    weights = {piece: ENGLISH_SHARE * share for piece, share in english.items()}
    order = rng.permutation(len(others))
    ranked = zipf(len(others))
    weights |= {piece: (1 - ENGLISH_SHARE) * float(ranked[order[i]]) for i, piece in enumerate(others)}
    # Letters are the last resort, below every longer piece, but for the word separator and the marks of
    # sentences.
    weights |= dict.fromkeys(letters, 3e-08)
    weights |= {SPACE: 0.02, ",": 0.03, ".": 0.03, "?": 0.003, "-": 0.005, "s": 0.02}
    pieces = sorted(weights, key=lambda piece: (-weights[piece], piece))
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return [
        *special,
        *((piece, round(float(np.log(weights[piece])), 6)) for piece in pieces),
        ("<mask>", 0.0),
    ]


def added_token(token_id: int, content: str) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": content == "<mask>",
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def template() -> dict[str, Any]:
    """XLM-R's pair: <s> query </s></s> context </s>, of one type."""

    def special(content: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": content, "type_id": 0}}

    def text(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    single = [special("<s>"), text("A"), special("</s>")]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, special("</s>"), text("B"), special("</s>")],
        "special_tokens": {
            token: {"id": token, "ids": [token_id], "tokens": [token]}
            for token, token_id in (("<s>", 0), ("</s>", 2))
        },
    }


def tokenizer_json() -> dict[str, Any]:
    """The whole tokenizer.json. NFKC stands in for XLM-R's precompiled map, which is NFKC but for a few
    characters.
    """
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    special = [(0, "<s>"), (1, "<pad>"), (2, "</s>"), (3, "<unk>"), (ENTRIES - 1, "<mask>")]
    collapse = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(token_id, content) for token_id, content in special],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, collapse]},
        "pre_tokenizer": metaspace,
        "post_processor": template(),
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": unigram(), "byte_fallback": False},
    }
