"""Processing around the descriptors of images: whitening, indexes, expansion, re-ranking and measures."""
