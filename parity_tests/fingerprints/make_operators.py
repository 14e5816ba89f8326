"""Make the fingerprints of mmcv's blocks in the way of ``make.py``, in a separate environment.

python -m venv reference
reference/bin/pip install torch==2.14.1 mmcv-lite==2.1.0 mmengine==0.10.4
reference/bin/python parity_tests/fingerprints/make_operators.py
"""

import sys
from importlib import metadata
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SHAPE = (2, 16, 6, 7)
ATTENTION = {"in_channels": 16, "num_heads": 4}
BLOCKS = {
    "mmcv_context_block": ("ContextBlock", {"in_channels": 16, "ratio": 0.25}),
    "mmcv_context_block_both": (
        "ContextBlock",
        {"in_channels": 16, "ratio": 0.5, "pooling_type": "avg", "fusion_types": ("channel_add", "channel_mul")},
    ),
    "mmcv_nonlocal_embedded_gaussian": ("NonLocal2d", {"in_channels": 16}),
    "mmcv_nonlocal_gaussian": ("NonLocal2d", {"in_channels": 16, "mode": "gaussian", "norm_cfg": {"type": "BN"}}),
    "mmcv_nonlocal_dot_product": ("NonLocal2d", {"in_channels": 16, "mode": "dot_product", "sub_sample": True}),
    "mmcv_attention_1111": ("GeneralizedAttention", ATTENTION),
    "mmcv_attention_0010": ("GeneralizedAttention", ATTENTION | {"attention_type": "0010"}),
    "mmcv_attention_1101": ("GeneralizedAttention", ATTENTION | {"attention_type": "1101", "q_stride": 2}),
}


def fingerprint(name):
    """The content of the file of one block."""
    import torch
    from make import fill, relative, summary
    from mmcv.cnn import bricks

    builder, options = BLOCKS[name]
    block = getattr(bricks, builder)(**options).eval()
    left = fill(block)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32))
    with torch.no_grad():
        y = block(x).numpy()
        noise = relative(y, block.double()(x.double()).numpy())
    print(f"{name:32} noise {noise:.1e}")
    return {
        "reference": {
            "repository": "open-mmlab/mmcv",
            "version": metadata.version("mmcv-lite"),
            "model": f"{builder}({', '.join(f'{key}={value!r}' for key, value in options.items())})",
        },
        "parameters": sum(parameter.numel() for parameter in block.parameters()),
        "weights": "seeded",
        "mode": "eval",
        "left_as_built": left,
        "inputs": {
            "x": {
                "shape": list(SHAPE),
                "rule": "in this order from one numpy.random.default_rng(0): standard_normal(shape), float32",
            }
        },
        "outputs": {"y": summary(y)},
        "notes": "y is the output of the block.",
        "tensors": [[key, list(tensor.shape)] for key, tensor in block.state_dict().items()],
    }


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    from make import write

    for block in sys.argv[1:] or BLOCKS:
        write(HERE / f"{block}.json", fingerprint(block))
