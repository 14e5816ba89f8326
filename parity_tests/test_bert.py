"""BERT: the tokenizer, both pre-training tasks, its optimiser, Google's files, and real weights in four engines."""

import json
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.nlp.bert as tf_bert
import tf_impl.nlp.bert_adam as tf_adam
import torch_impl.nlp.bert as torch_bert
import torch_impl.nlp.bert_adam as torch_adam
import torch_impl.state
from parity_tests.cases.nlp.bert import SMALL_BERT
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.packages import skip_without_package
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, checkpoints, onnx_file, store
from weights.processing import text
from weights.processing.text import TextError, sentence_input
from weights.seeded import seeded

FINGERPRINT = fingerprints.load("minilm_l6_v2_sentences")
PANELS = (TensorFlow, PyTorch)
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])
IDS = ("input_ids", "attention_mask", "token_type_ids")

# the model: numbers measured with the reference

CHECK = {"vocab_size": 50, "hidden": 16, "layers": 2, "heads": 2, "intermediate": 32, "positions": 16, "dropout": 0.0}
CHECK_INPUTS = {
    "input_ids": np.array([[2, 7, 9, 11, 3, 0], [2, 5, 3, 8, 6, 3]]),
    "attention_mask": np.array([[1, 1, 1, 1, 1, 0], [1] * 6]),
    "token_type_ids": np.array([[0] * 6, [0, 0, 0, 1, 1, 1]]),
}
CHECK_TARGETS = {
    "labels": np.array([[-100, 7, -100, 12, -100, -100], [-100, -100, -100, 8, -100, -100]]),
    "next_sentence_label": np.array([0, 1]),
}


def waves(shapes):
    """The fill of the check: a sine per tensor, of tied names the last in order."""
    found = {}
    for name in sorted(shapes):
        n = np.arange(int(np.prod(shapes[name]))).reshape(shapes[name])
        found[name] = 0.08 * np.sin(0.7 * n + 0.13 * len(name)) + name.endswith("LayerNorm.weight")
    found["bert.embeddings.word_embeddings.weight"] = found["cls.predictions.decoder.weight"]
    found["cls.predictions.bias"] = found["cls.predictions.decoder.bias"]
    return found


@BOTH
def test_check_values_of_the_reference(which):
    panel = PANELS[which](catalog.get("bert_base_uncased"), CHECK, precision="float64")
    panel.load(waves(panel.shapes()))
    outputs = panel.outputs(CHECK_INPUTS)
    np.testing.assert_allclose(panel.losses(CHECK_INPUTS, CHECK_TARGETS)["total"], 4.5679312499, rtol=0, atol=1e-9)
    relation = [[-0.0521103200, -0.0938993863], [-0.0521616875, -0.0942395333]]
    np.testing.assert_allclose(outputs["seq_relationship_logits"], relation, rtol=0, atol=2e-8)
    words = [0.1680954988, -0.1951126878, -0.3310458583]
    np.testing.assert_allclose(outputs["prediction_logits"][0, 1, :3], words, rtol=0, atol=1e-9)


COUNTS = {  # without and with the pre-training heads
    "bert_tiny": (4_385_920, 4_433_468),
    "bert_mini": (11_170_560, 11_267_900),
    "bert_small": (28_763_648, 29_058_876),
    "bert_base_uncased": (109_482_240, 110_106_428),
    "bert_large_uncased": (335_141_888, 336_226_108),
    "bert_base_cased": (108_310_272, 108_932_934),
    "bert_large_cased": (333_579_264, 334_661_958),
    "bert_base_chinese": (102_267_648, 102_882_442),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    for head, count in zip(("model", "pretraining"), COUNTS[name], strict=True):
        with torch.device("meta"):
            model = getattr(torch_bert, name)(head)
        assert sum(p.numel() for p in model.parameters()) == count, head


@BOTH
def test_masked_words_alone_are_those_of_pre_training(which):
    """BertForMaskedLM is BertForPreTraining without what reads the pooled token."""
    both = PANELS[which](catalog.get("bert_base_uncased"), CHECK)
    words = PANELS[which](catalog.get("bert_base_uncased_masked_lm"), CHECK)
    tensors = seeded(both.shapes(), aliases=both.aliases())
    both.load(tensors)
    assert set(tensors) - set(words.shapes()) == {
        f"{layer}.{kind}" for layer in ("bert.pooler.dense", "cls.seq_relationship") for kind in ("weight", "bias")
    }
    words.load({name: tensors[name] for name in words.shapes()})
    key = "prediction_logits"
    np.testing.assert_allclose(words.outputs(CHECK_INPUTS)[key], both.outputs(CHECK_INPUTS)[key], rtol=0, atol=1e-12)
    labels = {"labels": CHECK_TARGETS["labels"]}
    losses = words.losses(CHECK_INPUTS, labels)
    assert losses["total"] == losses["mlm"] == pytest.approx(both.losses(CHECK_INPUTS, CHECK_TARGETS)["mlm"], abs=1e-12)


@BOTH
@pytest.mark.parametrize("head", ["sequence", "token", "question"])
def test_only_heads_that_read_the_pooled_token_have_a_pooler(head, which):
    options = {**CHECK, "layers": 1, "head": head}
    panel = PANELS[which](catalog.get("bert_base_uncased"), options)
    assert ("bert.pooler.dense.weight" in panel.shapes()) == (head == "sequence")


def test_unknown_head_and_odd_width_are_named():
    for module in (tf_bert, torch_bert):
        with pytest.raises(ValueError, match=r"head='tokens' must be one of .*'token'"):
            module.bert_tiny("tokens")
        with pytest.raises(ValueError, match="hidden=10 must be a multiple of heads=4"):
            module.bert_tiny(hidden=10, heads=4)


@BOTH
def test_answer_outside_the_text_does_not_count(which):
    module = (tf_bert, torch_bert)[which]
    tensor = (tf.constant, torch.tensor)[which]
    logits = np.random.default_rng(0).standard_normal((2, 3, 5))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    outputs = {"start_logits": tensor(logits[0]), "end_logits": tensor(logits[1])}
    targets = {"start_positions": tensor([1, -100, 4]), "end_positions": tensor([5, -1, -100])}
    losses = module.BertQuestionAnsweringCriterion()(outputs, targets)
    start = -(log_p[0, 0, 1] + log_p[0, 2, 4]) / 2
    found = [float(losses[key]) for key in ("start", "end", "total")]
    np.testing.assert_allclose(found, [start, 0, start / 2], rtol=1e-6)


# training


def test_learning_rate_warms_up_and_decays():
    for module in (tf_adam, torch_adam):
        rates = [module.linear_warmup(step, 1.0, 4, 20) for step in (0, 1, 3, 4, 10, 20, 25)]
        np.testing.assert_allclose(rates, [0, 0.25, 0.75, 0.8, 0.5, 0, 0], rtol=1e-15)


@BOTH
def test_optimiser_is_googles(which):
    """No correction of the moments, decay outside them and not for biases and normalisation, one norm for all."""
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(3) for name in ("a.weight", "a.bias", "a.LayerNorm.weight")}
    gradients = [{name: scale * rng.standard_normal(3) for name in values} for scale in (5.0, 0.1)]
    if which:
        parameters = {name: torch.tensor(value) for name, value in values.items()}
        optimiser = torch_adam.BertAdam(parameters)
    else:
        parameters = {name: tf.Variable(value) for name, value in values.items()}
        optimiser = tf_adam.BertAdam(parameters)
    moments = {name: (np.zeros(3), np.zeros(3)) for name in values}
    for given in gradients:
        optimiser.step({n: (tf.constant, torch.tensor)[which](g) for n, g in given.items()}, 0.25)
        norm = np.sqrt(sum((g**2).sum() for g in given.values()))
        for name, g in given.items():
            g = g / max(norm, 1.0)
            m, v = moments[name]
            m, v = moments[name] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            decay = 0.01 if name == "a.weight" else 0.0
            values[name] = values[name] - 0.25 * (m / (np.sqrt(v) + 1e-6) + decay * values[name])
    for name, value in values.items():
        np.testing.assert_allclose(parameters[name].numpy(), value, rtol=1e-13)


@BOTH
def test_decoder_stays_tied_to_the_embedding_in_training(which):
    panel = PANELS[which](catalog.get("bert_base_uncased"), CHECK, precision="float64")
    before = panel.state()
    panel.train(CHECK_INPUTS, CHECK_TARGETS, 0.0, steps=1)
    after = panel.state()
    words = "bert.embeddings.word_embeddings.weight"
    assert np.abs(after[words] - before[words]).max() > 0
    np.testing.assert_array_equal(after[words], after["cls.predictions.decoder.weight"])
    np.testing.assert_array_equal(after["cls.predictions.bias"], after["cls.predictions.decoder.bias"])
    assert panel.aliases() == {
        "cls.predictions.decoder.weight": words,
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


# the tokenizer


def package(file):
    entry = catalog.get("all_minilm_l6_v2").checkpoint()
    with skip_without_package():
        return checkpoints.package_file(entry.package, entry.tokenizer).parent / file


SPLIT = {
    "unaffable Naïve résumé 中文 don't": "una ##ffa ##ble naive resume 中 文 don ' t",
    "tokenization, WordPiece!": "token ##ization , word ##piece !",
    "a\tb\nc\rd\xa0e": "a b c d e",
    "a\x00b\ufffdc\x07d": "abc ##d",
    "$1,234.56": "$ 1 , 234 . 56",
    "a_b^c`d~e": "a _ b ^ c ` d ~ e",
    "«quoted» – dash…": "« quoted » – dash …",
    "İstanbul ÅNGSTRÖM": "istanbul ang ##strom",
    "漢字kanji": "漢 [UNK] kan ##ji",
    "🤗 smile": "[UNK] smile",
    "a" * 100: "aaa " + "##aa " * 48 + "##a",
    "a" * 101: "[UNK]",
    "fill [MASK] in": "fill [MASK] in",
}


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_wordpiece(file):
    tokenizer = text.open_tokenizer(package(file), vocab_size=30522)
    for sentence, pieces in SPLIT.items():
        assert tokenizer.encode(sentence).tokens == ["[CLS]", *pieces.split(), "[SEP]"], ascii(sentence)
    assert text.vocabulary(tokenizer) == package("vocab.txt").read_text(encoding="utf-8").splitlines()


SMALL = [*text.SPECIAL, "he", "##llo", "hello", "Hello", "e", "é", "world", "."]


@pytest.fixture
def small(tmp_path):
    """The path of a small vocabulary."""
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(SMALL) + "\n", encoding="utf-8")
    return path


def test_cased_vocabulary_keeps_case_and_accents(small):
    assert text.open_tokenizer(small).encode("Hello É").tokens[1:-1] == ["hello", "e"]
    assert text.open_tokenizer(small, lowercase=False).encode("Hello é É").tokens[1:-1] == ["Hello", "é", "[UNK]"]


def test_longest_piece_wins_and_one_missing_piece_loses_the_word(small):
    tokenizer = text.open_tokenizer(small)
    assert tokenizer.encode("hello hehello hellohello he.").tokens[1:-1] == ["hello", "[UNK]", "[UNK]", "he", "."]


def test_batch_is_padded_to_its_longest_row_and_cut_at_the_limit(small):
    found = sentence_input(small, ["hello", "he he he", ("he he he he", "hello.")], max_length=7)
    he, hello, stop = (SMALL.index(word) for word in ("he", "hello", "."))
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)} and tuple(found) == IDS
    np.testing.assert_array_equal(
        found["input_ids"],
        [[2, hello, 3, 0, 0, 0, 0], [2, he, he, he, 3, 0, 0], [2, he, he, 3, hello, stop, 3]],
    )
    np.testing.assert_array_equal(found["attention_mask"].sum(1), [3, 5, 7])
    np.testing.assert_array_equal(found["token_type_ids"], [[0] * 7, [0] * 7, [0, 0, 0, 0, 1, 1, 1]])
    alone = sentence_input(text.open_tokenizer(small), "hello")
    np.testing.assert_array_equal(alone["input_ids"], [[2, hello, 3]])
    assert sentence_input(small, "he " * 5000)["input_ids"].shape == (1, 512)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([], "no sentence was given"),
        ("", "sentence 0 is empty"),
        (["he", " \t\n"], "sentence 1 is empty"),
        (["\x00\x01"], "sentence 0: .* has no words"),
        ([("he", "\u200b")], "sentence 0: .* has no words"),
        ([("he", "")], "sentence 0 is empty"),
        ([("he", "he", "he")], "sentence 0: 3 texts; a string or a pair"),
        ([5], "sentence 0: 5 is no text"),
        ([b"he"], "sentence 0: b'he' is no text"),
        (["he", None], "sentence 1: None is no text"),
        (["\ud83e"], "half of a surrogate pair"),
    ],
)
def test_bad_text_is_refused(small, sentences, message):
    with pytest.raises(TextError, match=message) as error:
        sentence_input(small, sentences)
    assert "\n" not in str(error.value)


def test_limit_must_leave_room(small):
    assert sentence_input(small, "he he", max_length=3)["input_ids"].shape == (1, 3)
    with pytest.raises(ValueError, match="max_length=2 must be 3 or more"):
        sentence_input(small, "he", max_length=2)
    with pytest.raises(ValueError, match="max_length=4 must be 5 or more"):
        sentence_input(small, [("he", "he")], max_length=4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", b"", r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\]"),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nhe", r"lacks \[MASK\]"),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhe\nhe\n", "has 'he' twice"),
        ("vocab.txt", b"[PAD]\n\xff\n", "not UTF-8"),
        ("tokenizer.json", b"", "not a tokenizer.json"),
        ("tokenizer.json", b"{}", "not a tokenizer.json"),
        ("tokenizer.json", b"[" * 10000, "not a tokenizer.json"),
        ("tokenizer.json", b'{"model": {"type": "WordPiece"}}', "not a tokenizer.json"),
    ],
)
def test_bad_tokenizer_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=message) as error:
        text.open_tokenizer(tmp_path / name)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(tmp_path / name))


def test_tokenizer_files_that_cannot_be_opened(tmp_path, monkeypatch, small):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(TextError, match="cannot be read"):
            text.open_tokenizer(path)
    monkeypatch.setattr(text, "MAX_FILE", 10)
    with pytest.raises(TextError, match="more than 10 bytes"):
        text.open_tokenizer(small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["model"]["vocab"].update(far=10**9), "ids up to 1000000000 for 14 tokens"),
        (lambda t: t.update(post_processor=None), "does not put a text between"),
        (lambda t: (t["model"]["vocab"].pop("[MASK]"), t.update(added_tokens=[])), r"lacks \[MASK\]"),
        (lambda t: t["model"].update(unk_token="nothing"), "cannot split text"),
    ],
)
def test_changed_tokenizer_json_is_refused(tmp_path, small, change, message):
    tokenizer = json.loads(text.open_tokenizer(small).to_str())
    change(tokenizer)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(TextError, match=message):
        text.open_tokenizer(path)


def test_vocabulary_must_fit_the_weights(small):
    assert text.open_tokenizer(small, vocab_size=len(SMALL))
    with pytest.raises(TextError, match="13 tokens do not fit the 12 words of the weights"):
        sentence_input(small, "he", vocab_size=12)


# masked words


def rows(count, length, words=200):
    """Ids from 5 on between [CLS] and [SEP]; every row is one token longer than the one before."""
    rng = np.random.default_rng(3)
    found = np.zeros((count, length + count - 1), np.int64)
    for i, row in enumerate(found):
        row[: length + i] = [2, *rng.integers(5, words, length + i - 2), 3]
    return found


WORDS = [*text.SPECIAL, *(f"{'##' if i % 3 == 0 else ''}w{i}" for i in range(195))]


def test_masked_words_are_those_of_the_given_numbers():
    ids = np.array([[2, 10, 11, 12, 13, 14, 15, 16, 17, 3, 0, 0]])
    random = np.full((3, 1, 12), 0.5)
    random[0, 0] = np.linspace(1, 0.1, 12)  # the last words first
    random[1, 0, 5:9] = [0.8999, 0.9, 0.7999, 0.8]
    random[2, 0, 6] = 0.123
    found = text.mask_words(ids, WORDS, random, share=0.4)
    hidden = ids.copy()
    hidden[0, 6], hidden[0, 7] = int(0.123 * 200), WORDS.index("[MASK]")  # 5 and 8 stay as they are
    np.testing.assert_array_equal(found["input_ids"], hidden)
    np.testing.assert_array_equal(found["labels"], [[-100] * 5 + [14, 15, 16, 17] + [-100] * 3])
    assert ids[0, 7] == 16, "the input is not changed"


@pytest.mark.parametrize(
    ("tokens", "limit", "expected"), [(3, 20, 1), (10, 20, 2), (17, 20, 3), (128, 20, 19), (134, 20, 20), (512, 76, 76)]
)
def test_number_of_masked_words(tokens, limit, expected):
    ids = rows(1, tokens)
    random = np.random.default_rng(tokens).random((3, *ids.shape))
    for whole_words in (False, True):
        labels = text.mask_words(ids, WORDS, random, max_predictions=limit, whole_words=whole_words)["labels"]
        assert (labels >= 0).sum() == expected


def test_shares_of_masked_kept_and_other_words():
    """Evenly spread numbers give the proportions exactly, up to one in the rounding."""
    ids = np.full((100, 102), 7)
    ids[:, 0], ids[:, -1] = 2, 3
    random = np.random.default_rng(0).random((3, 100, 102))
    random[1] = np.random.default_rng(1).permutation(np.linspace(0, 1, 10200, endpoint=False)).reshape(100, 102)
    found = text.mask_words(ids, WORDS, random, share=1.0, max_predictions=1000)
    hidden, labels = found["input_ids"], found["labels"]
    inner = random[1][:, 1:-1]
    assert ((labels >= 0).sum(1) == 100).all()
    assert (hidden == 4).sum() - (random[2][:, 1:-1][inner >= 0.9] * 200 // 1 == 4).sum() == (inner < 0.8).sum()
    for low, high, share in ((0.0, 0.8, 0.8), (0.8, 0.9, 0.1), (0.9, 1.0, 0.1)):
        assert abs(((inner >= low) & (inner < high)).mean() - share) < 0.005
    assert (hidden[:, 1:-1][(inner >= 0.8) & (inner < 0.9)] == 7).all()
    assert len(np.unique(hidden[:, 1:-1][inner >= 0.9])) > 195, "any word may come in"


def test_special_tokens_are_never_masked():
    ids = rows(40, 12)
    for seed, whole_words in ((0, False), (1, True)):
        random = np.random.default_rng(seed).random((3, *ids.shape))
        found = text.mask_words(ids, WORDS, random, share=0.99, whole_words=whole_words)
        special = np.isin(ids, [0, 2, 3])
        assert (found["labels"][special] == -100).all()
        np.testing.assert_array_equal(found["input_ids"][special], ids[special])
        chosen = found["labels"] >= 0
        np.testing.assert_array_equal(found["labels"][chosen], ids[chosen])
        np.testing.assert_array_equal(found["input_ids"][~chosen], ids[~chosen])


def test_whole_words_are_masked_together():
    ids = rows(40, 30)
    random = np.random.default_rng(0).random((3, *ids.shape))
    chosen = text.mask_words(ids, WORDS, random, whole_words=True)["labels"] >= 0
    apart = text.mask_words(ids, WORDS, random)["labels"] >= 0
    inside = np.char.startswith(np.array(WORDS)[ids], "##")
    inside[:, 1] = False  # what follows [CLS] begins a word
    assert (chosen[:, 1:] == chosen[:, :-1])[inside[:, 1:]].all()
    assert not (apart[:, 1:] == apart[:, :-1])[inside[:, 1:]].all()
    wanted = np.maximum(1, np.round(0.15 * (ids > 0).sum(1)))
    assert (chosen.sum(1) <= wanted).all() and (apart.sum(1) == wanted).all()


def test_random_numbers_must_fit():
    with pytest.raises(ValueError, match=r"random of shape \(3, 2, 5\) must have shape \(3, 2, 6\)"):
        text.mask_words(rows(2, 5), WORDS, np.zeros((3, 2, 5)))


# pairs of sentences


def documents(count=6):
    """Ids that tell document and place: 1000 * document + place."""
    rng = np.random.default_rng(5)
    found = []
    for number in range(count):
        ends = np.cumsum(rng.integers(1, 9, 12))
        found.append([list(range(1000 * number + a, 1000 * number + b)) for a, b in zip([0, *ends], ends)])
    return found


def test_pairs_follow_each_other_or_come_from_elsewhere():
    rng = np.random.default_rng(0)
    pairs = [p for _ in range(60) for p in text.next_sentence_pairs(documents(), iter(rng.random, None), 24)]
    labels = np.array([label for _, _, label in pairs])
    assert 0.4 < labels.mean() < 0.6
    lengths = np.array([len(first) + len(second) for first, second, _ in pairs])
    assert lengths.max() == 21 and 0.05 < (lengths < 12).mean() < 0.4
    for first, second, label in pairs:
        assert first and second
        assert len({i // 1000 for i in first}) == len({i // 1000 for i in second}) == 1
        assert (first[0] // 1000 != second[0] // 1000) == label
        for part in (first, second):
            assert part == list(range(part[0], part[-1] + 1)), "consecutive words"
        if not label:
            assert second[0] > first[-1]


def test_pairs_of_given_numbers():
    """Nothing short; after the first sentence, from the second document's second; cut at the front."""
    numbers = iter([0.5, 0.0, 0.4, 0.0, 0.5, 0.4, 0.6] + [0.9] * 20)
    found = text.next_sentence_pairs([[[1, 2, 3], [4, 5, 6]], [[7, 8], [9, 10, 11, 12]]], numbers, 9)
    assert found[0] == ([1, 2, 3], [10, 11, 12], 1)
    assert found[1][0] == [4, 5, 6], "what was replaced begins the next pair"


def test_too_long_a_pair_loses_tokens_of_its_longer_text():
    numbers = iter([0.5, 0.0, 0.0, 0.4, 0.6, 0.4, 0.6, 0.5, 0.0, 0.0, 0.9, 0.9, 0.9, 0.9])
    found = text.next_sentence_pairs([[[1, 2, 3, 4, 5, 6, 7, 8]], [[9, 10]]], numbers, 9)
    assert found == [([3, 4, 5, 6], [9, 10], 1), ([9, 10], [1, 2, 3, 4], 1)]
    assert next(numbers, None) is None, "every number is used"


def test_pairs_as_a_batch():
    found = text.pack([([7, 8], [9], 0), ([5], [6], 1)], WORDS)
    np.testing.assert_array_equal(found["input_ids"], [[2, 7, 8, 3, 9, 3], [2, 5, 3, 6, 3, 0]])
    np.testing.assert_array_equal(found["attention_mask"], [[1] * 6, [1, 1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(found["token_type_ids"], [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]])
    np.testing.assert_array_equal(found["next_sentence_label"], [0, 1])


def test_pairs_need_documents_and_room():
    endless = iter(np.random.default_rng(0).random, None)
    with pytest.raises(TextError, match="1 documents"):
        text.next_sentence_pairs(documents(1), endless)
    for empty in ([[[1]], []], [[[1]], [[]]]):
        with pytest.raises(TextError, match="is empty"):
            text.next_sentence_pairs(empty, endless)
    with pytest.raises(ValueError, match="max_length=4 must be 5 or more"):
        text.next_sentence_pairs(documents(), endless, 4)


STORY = ("the cat sits on the mat.", "the mat is red.", "a red mat is warm.", "the cat is warm.")
TALE = ("a ship sails over the sea.", "the sea is deep.", "a storm comes.", "the ship sinks in the storm.")


def test_pretraining_from_text_fills_the_gaps_in_the_end():
    """Text, pairs and masks train PyTorch's model; TensorFlow's, with its weights, fills in the same words."""
    words = [*text.SPECIAL, ".", *dict.fromkeys(" ".join(STORY + TALE).replace(".", "").split())]
    stories = [[[words.index(w) for w in s.replace(".", " .").split()] for s in story] for story in (STORY, TALE)]
    rng = np.random.default_rng(0)
    pairs = [p for _ in range(6) for p in text.next_sentence_pairs(stories, iter(rng.random, None), 24, short=0.0)]
    batch = text.pack(pairs, words)
    masked = text.mask_words(batch["input_ids"], words, rng.random((3, *batch["input_ids"].shape)))
    inputs = {**{name: batch[name] for name in IDS}, "input_ids": masked["input_ids"]}
    targets = {"labels": masked["labels"], "next_sentence_label": batch["next_sentence_label"]}
    options = {"vocab_size": len(words), "hidden": 32, "heads": 4, "intermediate": 64, "dropout": 0.0}
    torch.manual_seed(0)
    model = torch_bert.bert_tiny(**options)
    trainer = torch_bert.BertTrainer(model, learning_rate=3e-3)
    x = {name: torch.from_numpy(ids) for name, ids in inputs.items()}
    y = {name: torch.from_numpy(ids) for name, ids in targets.items()}
    losses = [float(trainer.step(x, y)["total"].detach()) for _ in range(150)]
    assert losses[-1] < 0.05 * losses[0], losses[::10]
    twin = TensorFlow(catalog.get("bert_tiny"), options, precision="float32")
    twin.load(torch_impl.state.state_dict(model.eval()))
    with torch.no_grad():
        by_torch = torch_bert.BertPreTrainingPostProcess()(model(*x.values()))["words"].numpy()
    gaps = masked["labels"] >= 0
    for found in (by_torch, twin.results(inputs)["words"]):
        assert (found == masked["labels"])[gaps].mean() > 0.98


# Google's files


def google_names(name):
    """The reverse of what is tested: our name and layout as Google's."""
    name = name.replace("encoder.layer.", "encoder.layer_").replace(".", "/")
    name = name.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta")
    name = name.replace("_embeddings/weight", "_embeddings").replace("predictions/bias", "predictions/output_bias")
    name = name.replace("relationship/", "relationship/output_")
    return name.replace("output_weight", "output_weights").replace("dense/weight", "dense/kernel")


@BOTH
def test_googles_checkpoint_is_read_from_its_own_file(tmp_path, which):
    panel = PANELS[which](catalog.get("bert_base_uncased"), CHECK, precision="float32")
    values = seeded(panel.shapes(), panel.aliases())
    theirs = {"global_step": np.array(7)}
    for name, value in values.items():
        if "decoder" not in name:
            new = google_names(name)
            new = new.replace("/weight", "/kernel") if "/self/" in new else new
            theirs[new] = value.T if new.endswith("/kernel") else value
            theirs[f"{new}/adam_m"] = theirs[f"{new}/adam_v"] = np.zeros_like(theirs[new])
    assert {"bert/encoder/layer_0/attention/self/query/kernel", "bert/pooler/dense/bias"} <= theirs.keys()
    assert {"cls/predictions/output_bias", "cls/seq_relationship/output_weights"} <= theirs.keys()
    assert "cls/predictions/transform/LayerNorm/gamma" in theirs and "bert/embeddings/word_embeddings" in theirs
    prefix = str(tmp_path / "bert_model.ckpt")
    names = list(theirs)
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=theirs.values())
    reader = tf.train.load_checkpoint(prefix)
    read = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    found = text.from_google(read)
    assert found.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    panel.load(found)


def test_other_checkpoints_are_not_googles():
    with pytest.raises(TextError, match="bert/embeddings/word_embeddings is missing"):
        text.from_google({"resnet/conv1/kernel": np.zeros((3, 3))})


# real weights


@cache
def official():
    with skip_without_package():
        entry, path = checkpoints.fetch(catalog.get("all_minilm_l6_v2"))
    return store.rename(store.load(path), entry.rename)


@cache
def encoders():
    """Both panels with the official weights."""
    found = []
    for panel in PANELS:
        found.append(panel(catalog.get("all_minilm_l6_v2"), {}, precision="float32"))
        found[-1].load(official())
    return found


def encoded(sentences):
    return sentence_input(package("tokenizer.json"), sentences, 256, vocab_size=30522)


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Functions of a batch of sentences: eager and ONNX of both panels."""
    folder = tmp_path_factory.mktemp("minilm")
    found = {}
    for panel in encoders():
        found[panel.package] = panel.outputs
        inputs = encoded(["two sentences", "of another length"])
        path = panel.export(folder / f"{panel.package}.onnx", inputs, None, {name: ("N", "T") for name in IDS})
        session = onnx_file.session(path, threads=1)
        found[f"{panel.package} ONNX"] = lambda batch, session=session: onnx_file.run(session, batch)
    return found


def test_names_and_size_are_the_checkpoints():
    model = torch_bert.all_minilm_l6_v2()
    assert model.state_dict().keys() == official().keys()
    assert sum(p.numel() for p in model.parameters()) == 22_713_216


def test_tokens_are_the_fingerprints():
    found = encoded(FINGERPRINT["inputs"]["sentences"])
    for name in ("input_ids", "attention_mask"):
        described = FINGERPRINT["inputs"][name]
        np.testing.assert_array_equal(found[name], np.reshape(described["data"], described["shape"]))
    tokenizer = text.open_tokenizer(package("tokenizer.json"))
    for sentence, expected in zip(FINGERPRINT["inputs"]["sentences"], FINGERPRINT["inputs"]["tokens"], strict=True):
        assert tokenizer.encode(sentence).tokens == expected


@BOTH
def test_every_layer_is_the_references(which):
    inputs = encoded(FINGERPRINT["inputs"]["sentences"])
    calls = encoders()[which].record(inputs)
    stages = {f"hidden_row1.{i + 1}": f"encoder.layer.{i}" for i in range(6)}
    for name, module in {"hidden_row1.0": "embeddings", **stages}.items():
        found = calls[module][-1][1][0][1, :9]
        for figure in compare_with_fingerprint(name, found, FINGERPRINT["outputs"][name]):
            assert figure.relative <= 1e-5, figure


def test_four_engines_give_the_references_embeddings(engines):
    inputs = encoded(FINGERPRINT["inputs"]["sentences"])
    for engine, run in engines.items():
        found = run(inputs)
        found = {**found, "last_hidden_valid_row0": found["last_hidden_state"][0, :11]}
        found["cosine"] = found["embedding"] @ found["embedding"].T
        for name in ("embedding", "cosine", "pooler_output", "last_hidden_valid_row0"):
            for figure in compare_with_fingerprint(name, found[name], FINGERPRINT["outputs"][name]):
                assert figure.relative <= 1e-5, (engine, figure)


def test_four_engines_find_the_sentence_that_is_alike(engines):
    sentences = [
        "The cat sits outside",
        "A man is playing guitar",
        "The new movie is awesome",
        "A kitten rests in the garden",
        "The film that just came out is great",
        "Someone strums a musical instrument",
    ]
    inputs = encoded(sentences)
    np.testing.assert_array_equal(inputs["input_ids"][0, :6], [101, 1996, 4937, 7719, 2648, 102])
    for engine, run in engines.items():
        embedding = run(inputs)["embedding"]
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
        cosine = embedding @ embedding.T
        np.testing.assert_allclose(cosine[[0, 0, 1], [1, 3, 2]], [0.0363, 0.5946, 0.0093], atol=1e-4, err_msg=engine)
        start = [0.139191, 0.003029, 0.047015, 0.039574, -0.047999]
        np.testing.assert_allclose(embedding[0, :5], start, atol=2e-6, err_msg=engine)
        nearest = (cosine - 2 * np.eye(6)).argmax(1)
        np.testing.assert_array_equal(nearest, [3, 5, 4, 0, 2, 1], err_msg=engine)


def test_padding_changes_nothing(engines):
    short, long = "A kitten rests in the garden.", "neural networks " * 20
    for engine, run in engines.items():
        alone, padded = run(encoded([short])), run(encoded([long, short]))
        np.testing.assert_allclose(padded["embedding"][1], alone["embedding"][0], atol=1e-6, err_msg=engine)
        tokens = alone["last_hidden_state"].shape[1]
        np.testing.assert_allclose(
            padded["last_hidden_state"][1, :tokens], alone["last_hidden_state"][0], atol=5e-6, err_msg=engine
        )


def test_weights_of_another_size_are_refused():
    panel = TensorFlow(catalog.get("all_minilm_l6_v2"), {"layers": 1}, precision="float32")
    with pytest.raises(store.StoreError, match=r"80 unexpected: encoder\.layer\.1\."):
        panel.load(official())


def test_matrices_and_embeddings_start_with_a_small_deviation():
    options = {**SMALL_BERT, "vocab_size": 3000}
    for panel in (TensorFlow, PyTorch):
        state = panel(catalog.get("bert_base_uncased"), options).state()
        for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.intermediate.dense.weight"):
            assert 0.017 < state[name].std() < 0.023, name
