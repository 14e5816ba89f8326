"""Files of text models as their authors publish them: every tensor finds its name and its place."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from parity_tests.cases.nlp.bert import SMALL_BERT
from parity_tests.cases.nlp.gpt import SMALL_GPT
from parity_tests.cases.nlp.transformer import SMALL_TRANSFORMER
from parity_tests.text_models import BOTH, built
from weights import catalog, fairseq, store
from weights.processing import bpe, text
from weights.processing.text import TextError

# the reverse of what is tested: our names and layout as those of the authors


def google_name(name):
    name = name.replace("encoder.layer.", "encoder.layer_").replace(".", "/")
    name = name.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta")
    name = name.replace("_embeddings/weight", "_embeddings").replace("predictions/bias", "predictions/output_bias")
    name = name.replace("relationship/", "relationship/output_")
    name = name.replace("output_weight", "output_weights").replace("dense/weight", "dense/kernel")
    return name.replace("/weight", "/kernel") if "/self/" in name else name


def googles(values, folder):
    """Read from its own file, with what its optimiser keeps."""
    theirs = {"global_step": np.array(7)}
    for name, value in values.items():
        if "decoder" not in name:
            new = google_name(name)
            theirs[new] = value.T if new.endswith("/kernel") else value
            theirs[f"{new}/adam_m"] = theirs[f"{new}/adam_v"] = np.zeros_like(theirs[new])
    prefix, names = str(folder / "bert_model.ckpt"), list(theirs)
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=theirs.values())
    reader = tf.train.load_checkpoint(prefix)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def openais(values, folder):
    theirs = {}
    for name, array in values.items():
        parts = name.split(".")[1:]
        if name == "lm_head.weight":
            continue
        if parts[0] == "h":
            parts[:2] = [f"h{parts[1]}"]
        if parts[0] in ("wte", "wpe"):
            parts.pop()
        else:
            norm = parts[-2].startswith("ln_")
            parts[-1] = "b" if parts[-1] == "bias" else "g" if norm else "w"
        theirs["/".join(["model", *parts])] = array[None] if parts[-1] == "w" else array
    return theirs


def fairseqs(values, folder):
    theirs = {"encoder.version": np.ones(1), "encoder.embed_positions._float_tensor": np.ones(1)}
    for name, value in values.items():
        if name.startswith("model.") and not name.startswith("model.shared"):
            theirs[name.removeprefix("model.")] = value
    theirs["decoder.output_projection.weight"] = theirs["decoder.embed_tokens.weight"]
    return theirs


def old_fairseqs(values, folder):
    """With one matrix for queries, keys and values, and norms by number."""
    theirs = fairseqs(values, folder)
    del theirs["decoder.output_projection.weight"]
    for name in [name for name in theirs if ".q_proj." in name]:
        parts = [theirs.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        theirs[name.replace(".q_proj.", ".in_proj_")] = np.concatenate(parts)
    for half, norms in fairseq.NORMS.items():
        for i, leaf in itertools.product(range(2), ("weight", "bias")):
            for j, norm in enumerate(norms):
                value = theirs.pop(f"{half}.layers.{i}.{norm}.{leaf}")
                theirs[f"{half}.layers.{i}.layer_norms.{j}.{leaf}"] = value
    return theirs


LAYOUTS = {  # model, options, precision, names that must be among theirs, writer, reader
    "google": (
        *("bert_base_uncased", SMALL_BERT, "float32"),
        {
            *("bert/encoder/layer_0/attention/self/query/kernel", "bert/pooler/dense/bias"),
            *("cls/predictions/output_bias", "cls/seq_relationship/output_weights"),
            *("cls/predictions/transform/LayerNorm/gamma", "bert/embeddings/word_embeddings"),
        },
        *(googles, text.from_google),
    ),
    "openai": (
        *("gpt2", SMALL_GPT, "float64"),
        {"model/wte", "model/h0/attn/c_attn/w", "model/h1/ln_2/g", "model/ln_f/b"},
        *(openais, bpe.from_openai),
    ),
    "fairseq": ("transformer_base", SMALL_TRANSFORMER, "float64", set(), fairseqs, fairseq.marian_names),
    "old fairseq": ("transformer_base", SMALL_TRANSFORMER, "float64", set(), old_fairseqs, fairseq.marian_names),
}


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_finds_its_place(which, layout, tmp_path):
    model, options, precision, some, write, read = LAYOUTS[layout]
    panel = built(which, model, options, precision, strict=model != "transformer_base")
    values = panel.state()
    theirs = write(values, tmp_path)
    assert some <= theirs.keys()
    found = read(theirs)
    assert found.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    panel.load(found, strict=True)


@pytest.mark.parametrize(
    "read, first, other",
    [
        (text.from_google, "bert/embeddings/word_embeddings", "resnet/conv1/kernel"),
        (bpe.from_openai, "model/wte", "bert/x"),
    ],
)
def test_other_files_are_refused(read, first, other):
    with pytest.raises(TextError, match=f"{first} is missing"):
        read({other: np.zeros((3, 3))})


def test_official_checkpoint_of_gpt2_is_renamed():
    """The public file lacks the first part of the names, and has the masks among its tensors."""
    entry = catalog.get("gpt2").checkpoint("openai")
    tensors = built(1, "gpt2", SMALL_GPT).state()
    theirs = {name.removeprefix("transformer."): array for name, array in tensors.items() if name != "lm_head.weight"}
    masks = {f"h.{i}.attn.{kind}": np.ones((1, 1, 4, 4)) for i in range(2) for kind in ("bias", "masked_bias")}
    found = store.rename({**theirs, **masks}, entry.rename)
    assert found.keys() | {"lm_head.weight"} == tensors.keys()
    assert store.rename(tensors, entry.rename).keys() == tensors.keys(), "names that are whole stay as they are"
