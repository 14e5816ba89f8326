"""CycleGAN: translate images between two sets without pairs; translating there and back must reproduce the image.

"Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks", 2017, arXiv:1703.10593.
Parameter names: junyanz/pytorch-CycleGAN-and-pix2pix ``models/networks.py`` (BSD-2-Clause).
What to look at: the generators move first, against the old discriminators; pix2pix does the opposite.

Mirror notes:
- A training step needs gradients of two losses: two tapes here, two calls of ``lower`` in PyTorch.
- PyTorch ships reflection padding; Keras only has zero padding.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from tf_impl.gan._patchgan import (
    NLayerDiscriminator,
    PatchCriterion,
    ReconstructionCriterion,
    TranslationPostProcess,
    conv,
    conv_transpose,
    linear_decay,
    norm_layer,
)
from tf_impl.layers.model import Model
from tf_impl.layers.padding import ReflectionPadding2D
from tf_impl.losses.adversarial import adversarial_loss
from tf_impl.training.optimizers import Adam
from tf_impl.training.players import Player

__all__ = [
    "CycleGAN",
    "CycleGANCriterion",
    "CycleGANTrainer",
    "ImagePool",
    "PatchCriterion",
    "ReconstructionCriterion",
    "ResnetBlock",
    "ResnetGenerator",
    "TranslationPostProcess",
    "cyclegan",
    "cyclegan_resnet_6blocks",
    "cyclegan_resnet_9blocks",
    "linear_decay",
    "patchgan_instance",
]


@keras.saving.register_keras_serializable("diptych")
class ResnetBlock(keras.layers.Layer):
    """Two convolutions and the input.  x: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, filters: int, norm: str = "instance", dropout: float | None = None, **kwargs):
        super().__init__(**kwargs)
        make_norm, use_bias = norm_layer(norm)
        layers = [ReflectionPadding2D(1), conv(filters, 3, use_bias=use_bias)]  # mirror: ships reflection
        layers += [make_norm(), keras.layers.ReLU()]
        layers += [] if dropout is None else [keras.layers.Dropout(dropout)]
        layers += [ReflectionPadding2D(1), conv(filters, 3, use_bias=use_bias), make_norm()]
        self.conv_block = keras.Sequential(layers)

    def call(self, x, training=False):
        return x + self.conv_block(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class ResnetGenerator(Model):
    """The generator (section 7.2): two halvings, residual blocks, two doublings.

    Args:
        blocks: residual blocks; the paper has 6 for 128 pixels and 9 from 256 on.
        width: channels of the first layer.
        in_chans, out_chans: channels of the images.
        norm: "instance" or "batch".
        dropout: rate in the middle of every block; with None there is no such layer, which changes the indices of the
            next ones.

    Inputs: (N, H, W, in_chans) float in [-1, 1]; H and W multiples of 4.
    Returns: (N, H, W, out_chans) in [-1, 1].
    """

    def __init__(
        self,
        blocks: int = 9,
        width: int = 64,
        in_chans: int = 3,
        out_chans: int = 3,
        norm: str = "instance",
        dropout: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        make_norm, use_bias = norm_layer(norm)
        model = [ReflectionPadding2D(3), conv(width, 7, use_bias=use_bias), make_norm(), keras.layers.ReLU()]
        for filters in (2 * width, 4 * width):
            model += [conv(filters, 3, strides=2, padding=1, use_bias=use_bias), make_norm(), keras.layers.ReLU()]
        model += [ResnetBlock(4 * width, norm, dropout) for _ in range(blocks)]
        for filters in (2 * width, width):
            up = conv_transpose(filters, 3, strides=2, padding=1, output_padding=1, use_bias=use_bias)
            model += [up, make_norm(), keras.layers.ReLU()]
        model += [ReflectionPadding2D(3), conv(out_chans, 7), keras.layers.Activation("tanh")]
        self.model = keras.Sequential(model)

    def call(self, images, training=False):
        return self.model(images, training=training)


@keras.saving.register_keras_serializable("diptych")
class CycleGAN(Model):
    """Generators ``netG_A`` (A to B) and ``netG_B`` (back), discriminators ``netD_A`` (of B) and ``netD_B`` (of A).

    Args:
        blocks, dropout: of the generators.
        width, norm: of the generators and of the discriminators.
        layers: of the discriminators.

    Inputs: ``A`` and ``B``, images of the two sets: (N, H, W, 3) float in [-1, 1].
    Returns: dict: ``"fake_B"``, ``"fake_A"``, the translations; ``"rec_A"``, ``"rec_B"``, these translated back;
        ``"idt_A"``, ``"idt_B"``, what ``netG_A`` makes of B and ``netG_B`` of A: (N, H, W, 3); logits (N, H', W', 1)
        of the discriminators on real and translated images: ``"D_A_real"`` and ``"D_A_fake"`` (of B), ``"D_B_real"``
        and ``"D_B_fake"`` (of A).
    """

    def __init__(
        self,
        blocks: int = 9,
        dropout: float | None = None,
        width: int = 64,
        norm: str = "instance",
        layers: int = 3,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.netG_A, self.netG_B = (ResnetGenerator(blocks, width, norm=norm, dropout=dropout) for _ in range(2))
        self.netD_A, self.netD_B = (NLayerDiscriminator(3, width, layers, norm) for _ in range(2))

    def call(self, A, B, training=False):
        fake_B, fake_A = self.netG_A(A, training=training), self.netG_B(B, training=training)
        return {
            "fake_B": fake_B,
            "rec_A": self.netG_B(fake_B, training=training),
            "fake_A": fake_A,
            "rec_B": self.netG_A(fake_A, training=training),
            "idt_A": self.netG_A(B, training=training),
            "idt_B": self.netG_B(A, training=training),
            "D_A_real": self.netD_A(B, training=training),
            "D_A_fake": self.netD_A(fake_B, training=training),
            "D_B_real": self.netD_B(A, training=training),
            "D_B_fake": self.netD_B(fake_A, training=training),
        }


@keras.saving.register_keras_serializable("diptych")
class CycleGANCriterion(keras.layers.Layer):
    """The players' losses (equations 1 to 4, and section 5.2 for the identity).

    Args:
        lambda_a, lambda_b: weights of the cycles A to B to A and B to A to B.
        lambda_identity: weight of the identity on images of the target set, relative to these.
        mode: see :func:`adversarial_loss`.

    Inputs: ``outputs`` of :class:`CycleGAN`; ``targets["A"]``, ``targets["B"]``, the images of the two sets.
    Returns: dict of scalars: ``"G_A"``, ``"G_B"``, ``"cycle_A"``, ``"cycle_B"``, ``"idt_A"``, ``"idt_B"``, their sum
        ``"G"``; ``"D_A"``, ``"D_B"``, their sum ``"D"``; ``"total"``, the sum of ``"G"`` and ``"D"``, which a training
        step lowers in turn.
    """

    def __init__(
        self,
        lambda_a: float = 10.0,
        lambda_b: float = 10.0,
        lambda_identity: float = 0.5,
        mode: str = "lsgan",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.lambda_a, self.lambda_b, self.lambda_identity, self.mode = lambda_a, lambda_b, lambda_identity, mode

    def generators(self, outputs, A, B) -> dict:
        """The loss of both generators."""
        losses = {
            "G_A": adversarial_loss(outputs["D_A_fake"], True, self.mode),
            "G_B": adversarial_loss(outputs["D_B_fake"], True, self.mode),
            "cycle_A": self.lambda_a * tf.reduce_mean(tf.abs(outputs["rec_A"] - A)),
            "cycle_B": self.lambda_b * tf.reduce_mean(tf.abs(outputs["rec_B"] - B)),
            # NOTE: the weights are those of the set that the image comes from
            "idt_A": self.lambda_b * self.lambda_identity * tf.reduce_mean(tf.abs(outputs["idt_A"] - B)),
            "idt_B": self.lambda_a * self.lambda_identity * tf.reduce_mean(tf.abs(outputs["idt_B"] - A)),
        }
        return {**losses, "G": sum(losses.values())}

    def discriminators(self, outputs) -> dict:
        """The loss of both discriminators."""
        losses = {
            name: 0.5
            * (
                adversarial_loss(outputs[f"{name}_real"], True, self.mode)
                + adversarial_loss(outputs[f"{name}_fake"], False, self.mode)
            )
            for name in ("D_A", "D_B")
        }
        return {**losses, "D": losses["D_A"] + losses["D_B"]}

    def call(self, outputs, targets):
        losses = self.generators(outputs, targets["A"], targets["B"]) | self.discriminators(outputs)
        return {**losses, "total": losses["G"] + losses["D"]}


class ImagePool:
    """Earlier translations, some of which a discriminator sees instead of new ones (section 4).

    Args:
        size: images kept; 0 returns every image unchanged.
    """

    def __init__(self, size: int = 50):
        self.size, self.images = size, []

    def query(self, images, keep, index):
        """Images to show: until the pool is full, each image is stored and shown; after that it is shown, or replaces
        another.

        Args:
            images: (N, H, W, C).
            keep: (N,) booleans, each with probability 1/2: show the new image without storing it.
            index: (N,) integers below ``size``: which stored image is otherwise shown and replaced.

        Returns:
            (N, H, W, C), without a gradient.
        """
        shown = []
        for image, new, i in zip(tf.unstack(tf.stop_gradient(images)), keep, index):
            if len(self.images) < self.size:
                self.images.append(image)
                shown.append(image)
            elif self.size == 0 or new:
                shown.append(image)
            else:
                shown.append(self.images[i])
                self.images[i] = image
        return tf.stack(shown)


class CycleGANTrainer:
    """Alternating training: both generators against the old discriminators, then both discriminators.

    Args:
        model: a :class:`CycleGAN`.
        criterion: its losses.
        learning_rate: of both players; see :func:`linear_decay`.
        pool: images kept per set, see :class:`ImagePool`.
    """

    def __init__(self, model, criterion, learning_rate: float = 2e-4, pool: int = 50):
        self.model, self.criterion = model, criterion
        adam = functools.partial(Adam, lr=learning_rate, betas=(0.5, 0.999))
        self.generators = Player({"netG_A": model.netG_A, "netG_B": model.netG_B}, adam)
        self.discriminators = Player({"netD_A": model.netD_A, "netD_B": model.netD_B}, adam)
        self.pool_A, self.pool_B = ImagePool(pool), ImagePool(pool)

    @property
    def gradients(self) -> dict:
        """Gradients of the last step by name: ``netG_*`` from the loss ``"G"``, ``netD_*`` from ``"D"``."""
        return {**self.generators.gradients, **self.discriminators.gradients}

    def step(self, inputs, targets) -> dict:
        """One step of each player from the images ``"A"`` and ``"B"``; returns the losses as each saw them.

        ``inputs["keep"]`` and ``inputs["index"]``, (2, N) are the random choices of the pools of A and of B; without
        them the first images are shown and stored.
        """
        A, B = inputs["A"], inputs["B"]
        count = len(A)
        keep = np.asarray(inputs.get("keep", np.ones((2, count), bool))).tolist()
        index = np.asarray(inputs.get("index", np.zeros((2, count), int))).tolist()
        with tf.GradientTape() as tape:  # mirror: two tapes
            outputs = self.model(A, B, training=True)
            losses = self.criterion.generators(outputs, A, B)
        self.generators.lower(losses["G"], tape)
        fake_A = self.pool_A.query(outputs["fake_A"], keep[0], index[0])
        fake_B = self.pool_B.query(outputs["fake_B"], keep[1], index[1])
        shown = {"D_A_real": B, "D_A_fake": fake_B, "D_B_real": A, "D_B_fake": fake_A}
        with tf.GradientTape() as tape:
            logits = {
                name: (self.model.netD_A if "D_A" in name else self.model.netD_B)(images, training=True)
                for name, images in shown.items()
            }
            losses |= self.criterion.discriminators(logits)
        self.discriminators.lower(losses["D"], tape)
        return {**losses, "total": losses["G"] + losses["D"]}


def cyclegan_resnet_9blocks(**options) -> ResnetGenerator:
    return ResnetGenerator(**{"blocks": 9, **options})


def cyclegan_resnet_6blocks(**options) -> ResnetGenerator:
    return ResnetGenerator(**{"blocks": 6, **options})


def patchgan_instance(**options) -> NLayerDiscriminator:
    return NLayerDiscriminator(**{"in_chans": 3, "norm": "instance", **options})


def cyclegan(**options) -> CycleGAN:
    return CycleGAN(**options)
