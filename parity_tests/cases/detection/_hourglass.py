"""The small trunk of hourglasses."""

SMALL = {"dims": (6, 6, 8), "modules": (2, 1, 2), "stem": 4, "cnv_dim": 6, "hidden": 6, "num_classes": 3}
