import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # tests measure the panels, not the settings of who runs them
