"""A run in one panel: weights that depend on their names only, then one step after the other."""

import functools

import numpy as np
import tensorflow as tf
import torch

from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.learning.networks import KerasEmbedding, KerasSum, TorchEmbedding, TorchSum
from parity_tests.learning.runs import CLASSES, Run
from tf_impl.training.optimizers import Adam
from tf_impl.training.sgd import SGD
from weights import catalog
from weights.processing.tracking.anchors import overlaps
from weights.processing.tracking.siamfc import SiamFCTracker
from weights.seeded import seeded

__all__ = ["PANELS", "Learner"]

PANELS = {"tf_impl": TensorFlow, "torch_impl": PyTorch}
MOMENTUM = 0.9
SLOPE = 0.25  # of PReLU at first; seeded ones are near 1, which is nearly linear


class Gradient:
    """A trainer for models that have none: model and criterion lower the total loss."""

    def __init__(self, panel, run: Run, graph: bool):
        self.panel = panel
        wanted = panel.trainable()
        sgd = {"lr": run.learning_rate, "momentum": MOMENTUM}
        if isinstance(panel, PyTorch):
            self.parameters = list(wanted.values())
            adam = functools.partial(torch.optim.Adam, lr=run.learning_rate)
            optimizer = adam if run.optimizer == "adam" else functools.partial(torch.optim.SGD, **sgd)
        else:
            self.parameters = [variable.value for variable, _ in wanted.values()]
            if run.schedule:  # a graph would keep a number as it is at first
                object.__setattr__(panel.criterion, "blend", tf.Variable(0.0, dtype=panel.precision))
            self.differentiate = tf.function(self.differentiate) if graph else self.differentiate
            adam = functools.partial(Adam, lr=run.learning_rate)
            optimizer = adam if run.optimizer == "adam" else functools.partial(SGD, **sgd)
        self.optimizer = optimizer(self.parameters)

    def step(self, inputs, targets) -> dict:
        panel = self.panel
        if isinstance(panel, PyTorch):
            losses = panel.criterion(panel.model(*inputs.values()), targets)
            self.optimizer.zero_grad()
            losses["total"].backward()
            self.optimizer.step()
            return losses
        losses, gradients = self.differentiate(inputs, targets)
        self.optimizer.step(gradients)
        return losses

    def differentiate(self, inputs, targets):
        """Losses and gradients of the Keras model."""
        with tf.GradientTape() as tape:
            losses = self.panel.criterion(self.panel.model(*inputs.values(), training=True), targets)
        gradients = tape.gradient(losses["total"], self.parameters)
        return losses, [tf.convert_to_tensor(gradient) for gradient in gradients]  # that of a gathered row is sparse


def compiled(model) -> None:
    """Let a Keras model, or its two networks, run as graphs, as ``compile`` and ``fit`` do."""
    for network in [part for part in (getattr(model, "netG", None), getattr(model, "netD", None)) if part] or [model]:
        object.__setattr__(network, "call", tf.function(network.call))


class Learner:
    """A run in a panel.

    Args:
        run: the run.
        package: "tf_impl" or "torch_impl".
        precision: "float64" or "float32".
        graph: whether TensorFlow runs compiled functions, which pays after a few steps.
    """

    def __init__(self, run: Run, package: str, precision: str, graph: bool = True):
        self.run, self.package = run, package
        inputs, _ = run.batches(0)
        self.panel = PANELS[package](
            run.entry,
            run.options,
            run.criterion,
            precision=precision,
            trainer=run.trainer,
            example=None if run.embedding else inputs,
        )
        self.panel.layouts |= {"images": "NCHW"}
        if run.embedding:
            with self.panel._policy():
                network = (KerasEmbedding if package == "tf_impl" else TorchEmbedding)(run.embedding)
            self.panel.model = self.panel._place(network)
        if run.beside:
            self.panel.criterion = self.joined(run, package, precision)
        self.panel.load(self.first_weights(), strict=False)
        if package == "torch_impl":
            self.panel.model.train()
        elif graph and self.panel.trainer and not run.embedding:
            compiled(self.panel.model)
        self.trainer = self.panel._trainer() if self.panel.trainer else Gradient(self.panel, run, graph)
        self.done = 0

    def joined(self, run: Run, package: str, precision: str):
        """The run's criterion and any additional one, combined."""
        model, options = run.beside
        sizes = {"num_classes": CLASSES, "embedding_size": run.embedding}
        other = PANELS[package](catalog.get(model), {**sizes, **options}, precision=precision)
        with self.panel._policy():
            return (KerasSum if package == "tf_impl" else TorchSum)([self.panel.criterion, other.criterion])

    def first_weights(self) -> dict[str, np.ndarray]:
        """Weights and biases by their names, statistics as built; a follower has those of the network it follows."""
        values, trained = seeded(self.panel.shapes()), self.panel.trainable()
        wanted = {name: v for name, v in values.items() if name in trained or name.endswith((".weight", ".bias"))}
        for name, value in wanted.items():
            if value.shape == (1,) and name.endswith(".weight"):
                wanted[name] = np.full_like(value, SLOPE)
        if self.run.follower:
            theirs, ours = self.run.follower
            wanted |= {
                name: wanted[ours + name[len(theirs) :]]
                for name in values
                if name.startswith(theirs) and ours + name[len(theirs) :] in wanted
            }
        if "queue" in values:
            wanted["queue"] = values["queue"] / np.linalg.norm(values["queue"], axis=0)
        return wanted

    def step(self) -> dict[str, float]:
        """The next step; its losses."""
        inputs, targets = self.run.batches(self.done)
        if self.run.schedule:
            self.run.schedule(self.panel.criterion, self.done)
        losses = self.trainer.step(self.panel.tensors(inputs), self.panel.tensors(targets))
        self.done += 1
        return {name: float(losses[name]) for name in self.run.shown}

    def embeddings(self, images: np.ndarray) -> np.ndarray:
        """(N, D) of pictures (N, C, H, W): grey, of the small network; coloured, of a contrastive system's trunk."""
        model = self.panel.model
        given = self.panel.tensors({"images": images})["images"]
        if self.package == "torch_impl":
            model.eval()
            with torch.no_grad():
                found = self._embed(given)
            model.train()
        else:
            found = self._embed(given)
        return np.asarray(found, np.float64)

    def _embed(self, images):
        if self.run.trunk is None:
            return self.panel.model(images)
        network = getattr(self.panel.model, self.run.trunk) if self.run.trunk else self.panel.model
        maps = network.forward_features(images)["c5"]
        return maps.mean((2, 3)) if self.package == "torch_impl" else tf.reduce_mean(maps, (1, 2))

    def overlap(self, sequences) -> float:
        """Mean IoU of SiamFC's boxes with those of objects that move: of frames (T, H, W, 3) and boxes (T, 4)."""

        def response(exemplar, crops):
            inputs = {"exemplar": np.repeat(exemplar, len(crops), 0), "search": crops}
            return self.panel.outputs(inputs)["response"]

        tracker, found = SiamFCTracker(lambda exemplar: exemplar, response), []
        for frames, boxes in sequences:
            boxes = boxes + np.array([1, 1, 0, 0])  # 1-based
            tracker.initialise(frames[0], boxes[0])
            for frame, box in zip(frames[1:], boxes[1:], strict=True):
                pair = np.stack([tracker.track(frame)["box"], box])
                pair[:, :2] += pair[:, 2:] / 2
                found.append(overlaps(*pair))
        if self.package == "torch_impl":
            self.panel.model.train()
        return float(np.mean(found))
