"""The PyTorch panel.

Where TensorFlow was imported before it, triton is left out of the process; see :mod:`weights.frameworks`.
"""

from weights import frameworks

frameworks.load_triton_first()  # TensorFlow may be imported into this process too
