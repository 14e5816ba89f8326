import os

from weights import frameworks

os.environ["KERAS_BACKEND"] = "tensorflow"  # tests measure the panels, not the settings of who runs them
frameworks.load_triton_first()
