"""Attention whose cost is linear in the length: a product of features replaces the exponential of a product.

"Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention", 2020, arXiv:2006.16236.
"Rethinking Attention with Performers", 2020, arXiv:2009.14794 (FAVOR+). The numbers are those of
lucidrains/performer-pytorch (MIT), which follows the authors' JAX code.

The causal variant cuts the sequence into chunks: within a chunk it multiplies queries and keys; earlier chunks come in
through running sums, one matrix per chunk. This needs neither a loop nor a matrix per position.

Mirror notes:
- PyTorch has no exclusive cumulative sum; it shifts the inclusive one.
- ``torch.export`` treats an axis of length 1 as a constant: PyTorch exports one empty chunk more.
"""

import tensorflow as tf

from .attention import mask_bias

__all__ = [
    "favor_attention",
    "feature_attention",
    "linear_attention",
    "orthogonal_projection",
    "relu_features",
    "softmax_features",
]

CHUNK = 64  # positions of a chunk in the causal variant


def in_chunks(x):
    """(N, heads, T, R) -> (N, heads, G, CHUNK, R), with zeros after the end."""
    rest = (CHUNK - tf.shape(x)[2] % CHUNK) % CHUNK  # mirror: one empty chunk
    x = tf.pad(x, [[0, 0], [0, 0], [0, rest], [0, 0]])
    return tf.reshape(x, (-1, x.shape[1], tf.shape(x)[2] // CHUNK, CHUNK, x.shape[3]))


def feature_attention(query, key, value, causal: bool = False):
    """Sums over the keys; in the causal variant over those up to each query.

    Args:
        query, key: features, (N, heads, T, R) and (N, heads, S, R).
        value: (N, heads, S, E). In the causal variant S = T.

    Returns: sums of (q . k) v, (N, heads, T, E), and of q . k, (N, heads, T, 1).
    """
    value = tf.concat([value, tf.ones_like(value[..., :1])], -1)
    if not causal:
        y = tf.matmul(query, tf.matmul(key, value, transpose_a=True))
        return y[..., :-1], y[..., -1:]
    length = tf.shape(query)[2]
    query, key, value = (in_chunks(x) for x in (query, key, value))
    seen = tf.linalg.band_part(tf.ones((CHUNK, CHUNK), query.dtype), -1, 0)
    within = tf.matmul(tf.matmul(query, key, transpose_b=True) * seen, value)  # (N, heads, G, CHUNK, E + 1)
    # the sum over the chunks before; mirror: exclusive
    before = tf.cumsum(tf.matmul(key, value, transpose_a=True), 2, exclusive=True)  # (N, heads, G, R, E + 1)
    y = within + tf.matmul(query, before)
    y = tf.reshape(y, (-1, y.shape[1], tf.shape(y)[2] * CHUNK, y.shape[4]))[:, :, :length]
    return y[..., :-1], y[..., -1:]


def linear_attention(query, key, value, key_padding_mask=None, causal: bool = False):
    """Attention with the features elu(x) + 1 (arXiv:2006.16236, equation 7).

    Args:
        query, key, value: (N, heads, T, E), (N, heads, S, E), (N, heads, S, F).
        key_padding_mask: (N, S) bool, True = padding, or None.
        causal: whether a query sees no later key.

    Returns: (N, heads, T, F).
    """
    query, key = tf.nn.elu(query) + 1, tf.nn.elu(key) + 1
    if key_padding_mask is not None:
        key = key * tf.cast(~key_padding_mask, key.dtype)[:, None, :, None]
    total, norm = feature_attention(query, key, value, causal)
    return total / (norm + 1e-6)


def softmax_features(x, projection, is_query: bool, masked=None, eps: float = 1e-4):
    """Positive random features, whose products estimate exp(q . k / sqrt(E)) (arXiv:2009.14794, lemma 1).

    The largest exponent, which only keeps the numbers in range, is subtracted: of each query's features, or of those of
    all keys. It has no gradient.

    Args:
        x: (N, heads, T, E).
        projection: (R, E), see :func:`orthogonal_projection`.
        is_query: whether x are queries.
        masked: (N, 1, T, 1) bool, True = ignored for the largest exponent, without features; or None.
        eps: added to each exponential.

    Returns: (N, heads, T, R).
    """
    x = x * x.shape[-1] ** -0.25
    exponent = tf.matmul(x, projection, transpose_b=True)
    if masked is not None:
        exponent = exponent + mask_bias(masked, x.dtype)
    largest = tf.stop_gradient(tf.reduce_max(exponent, -1 if is_query else (-2, -1), keepdims=True))
    y = tf.exp(exponent - tf.reduce_sum(tf.square(x), -1, keepdims=True) / 2 - largest) + eps
    if masked is not None:
        y = y * tf.cast(~masked, y.dtype)
    return y * projection.shape[0] ** -0.5


def relu_features(x, projection, masked=None, eps: float = 1e-3):
    """The features relu(P x) + eps of generalised attention.  Arguments and result: :func:`softmax_features`."""
    y = tf.nn.relu(tf.matmul(x * x.shape[-1] ** -0.25, projection, transpose_b=True)) + eps
    return y if masked is None else y * tf.cast(~masked, y.dtype)


def favor_attention(
    query,
    key,
    value,
    projection,
    key_padding_mask=None,
    causal: bool = False,
    kernel: str = "softmax",
    mask_keys: bool = True,
    eps: float | None = None,
):
    """FAVOR+: attention by random features.

    In the causal variant the largest exponent also covers later keys, which therefore change the result by as much as
    ``eps`` does: a few thousandths for 1e-4, only rounding for 0.

    Args:
        query, key, value: (N, heads, T, E), (N, heads, S, E), (N, heads, S, F).
        projection: (R, E), the random features.
        key_padding_mask: (N, S) bool, True = padding, or None.
        causal: whether a query sees no later key.
        kernel: "softmax" or "relu".
        mask_keys: whether padding has no features. If not, as in the reference, only its values are zero, and it still
            takes a share of the weights.
        eps: of the features, by default 1e-4 ("softmax") or 1e-3 ("relu"); if 0, nothing is added to the norm either.

    Returns: (N, heads, T, F); 0 where there is no key.
    Raises: ValueError if ``kernel`` is unknown.
    """
    if kernel not in ("softmax", "relu"):
        raise ValueError(f"kernel={kernel!r} must be 'softmax' or 'relu'")
    padding = None if key_padding_mask is None else key_padding_mask[:, None, :, None]
    if padding is not None:
        value = value * tf.cast(~padding, value.dtype)
    masked = padding if mask_keys else None
    if kernel == "softmax":
        eps = 1e-4 if eps is None else eps
        query = softmax_features(query, projection, True, eps=eps)
        key = softmax_features(key, projection, False, masked, eps)
    else:
        eps = 1e-3 if eps is None else eps
        query, key = relu_features(query, projection, eps=eps), relu_features(key, projection, masked, eps)
    total, norm = feature_attention(query, key, value, causal)
    if causal and eps:
        norm = norm + 1e-6 * tf.reduce_sum(query, -1, keepdims=True)  # the reference adds it to the sums of the keys
    return total / tf.where(norm == 0, tf.ones_like(norm), norm)


def orthogonal_projection(normal, lengths, scaling: int = 0):
    """Rows that are orthogonal in blocks, with the lengths of normal rows or all of one length (arXiv:2009.14794,
    section 2.4).

    Args:
        normal: (B, E, E) normal numbers, B = R / E rounded up; a block is the transpose of Q of their decomposition QR.
        lengths: (R, E) normal numbers, whose norms are the lengths of the rows if ``scaling`` is 0.
        scaling: 0, or 1 for rows of length sqrt(E).

    Returns: (R, E).
    Raises: ValueError if ``scaling`` is neither.
    """
    if scaling not in (0, 1):
        raise ValueError(f"scaling={scaling} must be 0 or 1")
    rows, dim = lengths.shape
    directions = tf.reshape(tf.linalg.matrix_transpose(tf.linalg.qr(normal)[0]), (-1, dim))[:rows]
    return directions * (tf.norm(lengths, axis=1, keepdims=True) if scaling == 0 else dim**0.5)
