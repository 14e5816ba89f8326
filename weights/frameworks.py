"""Preparations before TensorFlow and PyTorch share a process; the module itself imports neither."""

import contextlib
import importlib
import os
import sys

__all__ = ["KerasSettingsError", "check_keras", "load_triton_first", "use_keras_on_tensorflow"]


class KerasSettingsError(ImportError):
    """The user's Keras settings do not allow the TensorFlow panel; one line names the setting and what to do."""


def load_triton_first() -> None:
    """Make sure that TensorFlow and triton never meet in the order that ends the process.

    PyTorch's CUDA builds bring triton, which every export imports. TensorFlow loads its LLVM with global symbols, and a
    triton that is loaded later calls those instead of its own: a segmentation fault (tensorflow issue 124205). So it
    is loaded now if there still is time, and otherwise left out, as if it were not installed: only ``torch.compile`` on
    a GPU needs it. For that, import ``torch_impl``, ``tf_impl`` or triton before TensorFlow.
    """
    if "triton" in sys.modules:
        return
    if "tensorflow" in sys.modules:
        sys.modules["triton"] = None  # from here on, `import triton` raises ModuleNotFoundError
        return
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")


def check_keras() -> None:
    """Reject Keras settings that the TensorFlow panel does not support.

    The precision (``floatx``, the dtype policy) is the user's to choose.

    Raises:
        KerasSettingsError: names the setting and what to do.
    """
    keras = _keras()
    backend, data_format = keras.config.backend(), keras.config.image_data_format()
    if backend != "tensorflow":
        change = "set KERAS_BACKEND=tensorflow" if "KERAS_BACKEND" not in os.environ else _advice()
        raise KerasSettingsError(f"tf_impl needs Keras on TensorFlow, and its backend is {backend!r}; {change}")
    if data_format != "channels_last":
        raise KerasSettingsError(
            f"tf_impl needs Keras with channels last, and its image_data_format is {data_format!r}; "
            'call keras.config.set_image_data_format("channels_last") first, or change keras.json'
        )


def use_keras_on_tensorflow() -> None:
    """Import Keras with the settings that the TensorFlow panel is measured with, whatever the user's are.

    For programs; a library does not touch the user's settings.

    Raises:
        KerasSettingsError: if Keras does not start with them at all.
    """
    load_triton_first()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    keras = _keras()
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def _keras():
    try:
        return importlib.import_module("keras")
    except Exception as error:  # settings that it does not know make it raise many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KerasSettingsError(f"Keras does not start with its settings ({reason}); {_advice()}") from error


def _advice() -> str:
    folder = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    file, backend = os.path.join(folder, "keras.json"), os.environ.get("KERAS_BACKEND", "tensorflow")
    return f"mend or remove {file}" if backend == "tensorflow" else f"set KERAS_BACKEND=tensorflow (it is {backend!r})"
