"""Front ends: known sentences, numbers, round trips."""

import json

import numpy as np

from jaxtts.text import GRUUT_EN_US, TextSpec, build


def test_known_sentence():
    front_end = build(TextSpec())
    (sentence,) = front_end.sentences("Hello, world!")
    assert sentence.tokens == ["h", "ɛ", "l", "ˈ", "oʊ", ",", " ", "w", "ˈ", "ɚ", "l", "d", "!"]
    ids = front_end.encode(sentence.tokens)
    assert ids.dtype == np.int32 and front_end.decode(ids) == sentence.tokens
    assert len(GRUUT_EN_US) == len(set(GRUUT_EN_US)) == 52


def test_spec_survives_json():
    spec = TextSpec(blank="_", bos="^", eos="$")
    assert TextSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
