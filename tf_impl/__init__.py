"""The TensorFlow panel: Keras on TensorFlow, channels last.

Raises:
    KerasSettingsError, an ImportError: if the user's settings of Keras are for another backend or for channels first;
        one line names them.
"""

from weights import frameworks

frameworks.load_triton_first()  # PyTorch may come into this process, too
frameworks.check_keras()
