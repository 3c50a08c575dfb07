"""Tokenizers: golden ids of the published vocabulary, byte pairs by hand, words of captions."""

import gzip

import numpy as np
import pytest

from segjax.text.bpe import BytePairTokenizer
from segjax.text.templates import find_templates, parse_names
from segjax.text.tokenizers import load_tokenizer, tokenize
from segjax.text.vocabulary import VARIABLE, find_vocabulary, list_places, read_merges
from segjax.text.words import KINDS, WORDS, WordTokenizer, find_kind

GOLDEN = {
    "a photo of a cat": [49406, 320, 1125, 539, 320, 2368, 49407],
    "a wheel": [49406, 320, 6744, 49407],
    "beaver tooth grille": [49406, 22874, 12030, 34748, 49407],
    "Rock joint, 3.5 m wide!": [49406, 2172, 6640, 267, 274, 269, 276, 332, 3184, 256, 49407],
    "it's the dog's ball": [49406, 585, 568, 518, 1929, 568, 1069, 49407],
    "naïve café ☕ 東京": [49406, 1097, 35689, 563, 15304, 26561, 48338, 21078, 361, 49407],
    "rock fracture segmentation": [49406, 2172, 28995, 10551, 9512, 49407],
    "": [49406, 49407],
}


@pytest.fixture(scope="module")
def published():
    if not any(place.is_file() for place in list_places()):
        pytest.skip("the vocabulary of CLIP is not here")
    return load_tokenizer("clip")


@pytest.mark.real_data
@pytest.mark.parametrize("text", GOLDEN)
def test_golden_ids(published, text):
    ids = published([text])
    assert ids.shape == (1, 77) and ids.dtype == np.int32
    wanted = GOLDEN[text]
    assert ids[0].tolist() == wanted + [0] * (77 - len(wanted))


@pytest.mark.real_data
def test_spaces_case_and_entities_do_not_matter(published):
    one, other = published(["A  photo\tof &lt;b&gt;"]), published([" a photo of <b> "])
    np.testing.assert_array_equal(one, other)


@pytest.mark.real_data
def test_long_texts_are_refused_or_cut(published):
    text = "word " * 90
    with pytest.raises(ValueError, match=r"text 1 has 92 tokens.*77.*truncate=True"):
        published(["short", text])
    ids = published([text], truncate=True)
    assert ids[0, -1] == 49407 and (ids[0, 1:-1] == ids[0, 1]).all()


def test_pairs_are_merged_in_the_order_of_the_vocabulary():
    tokenizer = BytePairTokenizer([("l", "o"), ("o", "w</w>"), ("lo", "w</w>"), ("e", "r</w>")])
    ids = {symbol: i for symbol, i in tokenizer._ids.items()}
    encode = lambda text: tokenizer.encode(text)
    assert encode("low") == [ids["low</w>"]]
    assert encode("lower") == [ids["lo"], ids["w"], ids["er</w>"]]
    assert encode("Lo") == [ids["l"], ids["o</w>"]]
    assert encode("w2w") == [ids["w</w>"], ids["2</w>"], ids["w</w>"]]
    assert tokenizer.vocabulary == 512 + 4 + 2


def test_a_missing_or_wrong_vocabulary_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("segjax.text.vocabulary.list_places", lambda: [tmp_path / "absent.gz"])
    with pytest.raises(FileNotFoundError, match=f"absent.gz(.|\n)*open_clip(.|\n)*{VARIABLE}"):
        find_vocabulary()
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"a b\n"))
    with pytest.raises(ValueError, match="not CLIP's vocabulary"):
        read_merges(tmp_path / "other.gz")


def test_a_named_vocabulary_comes_first(monkeypatch):
    monkeypatch.setenv(VARIABLE, "/some/where.gz")
    assert str(list_places()[0]) == "/some/where.gz"


def test_words_of_captions():
    ids = tokenize("captions", ["a Red star.", "the star, left of the blue cross"], 12)
    assert ids[0].tolist() == [62, 1, WORDS.index("red") + 1, WORDS.index("star") + 1, 63] + [0] * 7
    assert ids.max(axis=1).tolist() == [63, 63] and len(WORDS) < 62
    with pytest.raises(ValueError, match="'stars' is not a word.*did you mean 'star'"):
        WordTokenizer()(["a red stars"], 12)
    with pytest.raises(ValueError, match="has 6 tokens"):
        tokenize("captions", "a red striped star", 5)


def test_what_is_no_text_is_refused():
    with pytest.raises(TypeError, match="texts hold a int"):
        tokenize("captions", [3], 8)
    with pytest.raises(ValueError, match="no text"):
        tokenize("captions", [], 8)
    with pytest.raises(ValueError, match="'bpe' is unknown"):
        tokenize("bpe", "a", 8)


def test_kinds_of_phrases():
    phrases = {
        "the star left of the red cross": "relation",
        "the large red star": "size",
        "the red striped object": "combination",
        "the red object": "color",
        "the striped object": "texture",
        "the star": "shape",
    }
    assert {text: find_kind(text) for text in phrases} == phrases
    assert set(phrases.values()) == set(KINDS)


def test_templates_and_names(tmp_path):
    assert find_templates("photo") == ("a photo of a {}.",)
    assert find_templates("my {}") == ("my {}",)
    (tmp_path / "own.txt").write_text("one {}\n\ntwo {}\n")
    assert find_templates(str(tmp_path / "own.txt")) == ("one {}", "two {}")
    for wrong, message in (("eighty", "expected one of name, photo, seven"), (["a"], "'a' needs")):
        with pytest.raises(ValueError, match=message):
            find_templates(wrong)
    assert parse_names("cup, spoon") == ["cup", "spoon"]
    for wrong, message in (
        ("cup,,spoon", "expected names"),
        ("", "expected names"),
        ("cup,spoon,cup", "'cup' occurs twice"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_names(wrong)
