"""The TensorFlow panel: Keras on TensorFlow, channels last.

Raises:
    KerasSettingsError, an ImportError: if the user's Keras settings are for another backend or for channels first; the
        message names them.
"""

from weights import frameworks

frameworks.load_triton_first()  # PyTorch may be imported into this process too
frameworks.check_keras()
