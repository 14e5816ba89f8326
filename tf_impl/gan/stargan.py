"""StarGAN: one generator translates between all domains of a set; a code given with the image selects the target.

"StarGAN: Unified Generative Adversarial Networks for Multi-Domain Image-to-Image Translation", 2017, arXiv:1711.09020.
Parameter names: yunjey/stargan ``model.py`` (MIT).
What to look at: the discriminator also classifies the domain, so one discriminator serves all of them.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- A training step needs gradients of two losses: two tapes here, two calls of ``lower`` in PyTorch.
- PyTorch's instance normalisation can keep the buffers that checkpoints contain; Keras' has none.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.gan._patchgan import ReconstructionCriterion
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D, Conv2DTranspose
from tf_impl.layers.model import Model
from tf_impl.layers.native import exporting, onnx_node
from tf_impl.layers.normalization import BatchNormalization, moments
from tf_impl.layers.resize import map_size
from tf_impl.losses.adversarial import adversarial_loss, gradient_penalty, interpolate
from tf_impl.losses.cross_entropy import cross_entropy
from tf_impl.training.optimizers import Adam
from tf_impl.training.players import Player

__all__ = [
    "DomainCriterion",
    "ReconstructionCriterion",
    "StarGAN",
    "StarGANCriterion",
    "StarGANDiscriminator",
    "StarGANGenerator",
    "StarGANPostProcess",
    "StarGANTrainer",
    "linear_decay",
    "stargan_128",
    "stargan_256",
    "stargan_discriminator",
    "stargan_generator",
]


@keras.saving.register_keras_serializable("diptych")
class TrackingInstanceNorm(BatchNormalization):  # mirror: buffers
    """Instance normalisation with a learnt scale and shift, and the buffers that checkpoints contain.

    Args:
        running: in evaluation mode, normalise with the buffers. The reference never does, because it never leaves
            training mode.

    x: (N, H, W, C) -> (N, H, W, C).
    """

    def __init__(self, running: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.running = running

    def call(self, x, training=False):
        if self.running and not training:
            return super().call(x)
        mean, variance = moments(x, (1, 2), keepdims=True)
        if training:
            height, width = map_size(x)
            count = tf.cast(height * width, x.dtype)
            unbiased = variance * (count / (count - 1))
            for own, new in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
                own.assign(self.momentum * own + (1 - self.momentum) * tf.reduce_mean(new, (0, 1, 2)))
            self.num_batches_tracked.assign_add(1)
        gamma, beta = tf.cast(self.gamma, x.dtype), tf.cast(self.beta, x.dtype)
        if exporting():
            y = tf.transpose(x, (0, 3, 1, 2))
            y = onnx_node("InstanceNormalization", [y, gamma, beta], {"epsilon": self.epsilon}, y.dtype, y.shape)
            return tf.transpose(y, (0, 2, 3, 1))
        scale = gamma * tf.math.rsqrt(variance + self.epsilon)
        return x * scale + (beta - mean * scale)

    def get_config(self):
        return {**super().get_config(), "running": self.running}


@keras.saving.register_keras_serializable("diptych")
class TrackingResidualBlock(keras.layers.Layer):
    """Two normalised convolutions and the input.  x: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, filters: int, running: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.main = keras.Sequential(
            [
                Conv2D(filters, 3, padding=1, use_bias=False),
                TrackingInstanceNorm(running),
                keras.layers.ReLU(),
                Conv2D(filters, 3, padding=1, use_bias=False),
                TrackingInstanceNorm(running),
            ]
        )

    def call(self, x, training=False):
        return x + self.main(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class StarGANGenerator(Model):
    """The generator (table 4).

    Args:
        c_dim: length of the code: a number for each attribute or domain; for several sets together, with the mask that
            selects the set.
        width: channels of the first layer.
        blocks: residual blocks.
        running: normalise with running statistics in evaluation mode, which the reference never does.

    Inputs: ``image`` (N, H, W, 3) float in [-1, 1], H and W multiples of 4; ``code`` (N, c_dim).
    Returns: (N, H, W, 3) in [-1, 1].
    """

    def __init__(self, c_dim: int = 5, width: int = 64, blocks: int = 6, running: bool = False, **kwargs):
        super().__init__(**kwargs)
        norm = functools.partial(TrackingInstanceNorm, running)
        conv = functools.partial(Conv2D, use_bias=False)
        main = [conv(width, 7, padding=3), norm(), keras.layers.ReLU()]
        for filters in (2 * width, 4 * width):
            main += [conv(filters, 4, strides=2, padding=1), norm(), keras.layers.ReLU()]
        main += [TrackingResidualBlock(4 * width, running) for _ in range(blocks)]
        for filters in (2 * width, width):
            up = Conv2DTranspose(filters, 4, strides=2, padding=1, use_bias=False)
            main += [up, norm(), keras.layers.ReLU()]
        self.main = keras.Sequential([*main, conv(3, 7, padding=3), keras.layers.Activation("tanh")])

    def call(self, image, code, training=False):
        height, width = map_size(image)
        code = tf.tile(code[:, None, None, :], (1, height, width, 1))  # (N, H, W, c_dim)
        return self.main(tf.concat((image, code), -1), training=training)


@keras.saving.register_keras_serializable("diptych")
class StarGANDiscriminator(Model):
    """The discriminator (table 5).

    Args:
        size: of the images, one number or (height, width).
        c_dim: number of attributes or domains.
        width: channels of the first layer, doubled in each.
        layers: halvings of the image.

    Inputs: (N, size, size, 3) float in [-1, 1].
    Returns: dict: ``"src"`` (N, H', W', 1), a score for each patch; ``"cls"`` (N, c_dim), logits of the domains.
    """

    def __init__(self, size: int | tuple[int, int] = 128, c_dim: int = 5, width: int = 64, layers: int = 6, **kwargs):
        super().__init__(**kwargs)
        sides = (size, size) if isinstance(size, int) else size
        self.input_spec = keras.layers.InputSpec(shape=(None, *sides, 3))
        main = []
        for i in range(layers):
            main += [Conv2D(width * 2**i, 4, strides=2, padding=1), LeakyReLU(0.01)]
        self.main = keras.Sequential(main)
        self.conv1 = Conv2D(1, 3, padding=1, use_bias=False)
        self.conv2 = Conv2D(c_dim, tuple(side // 2**layers for side in sides), use_bias=False)

    def call(self, images, training=False):
        x = self.main(images)
        return {"src": self.conv1(x), "cls": self.conv2(x)[:, 0, 0]}


@keras.saving.register_keras_serializable("diptych")
class StarGAN(Model):
    """Generator ``G`` and discriminator ``D``.

    Args:
        size, c_dim: of the images and of the code.
        width, blocks: of the generator.
        D_width, D_layers: of the discriminator.

    Inputs: ``image`` (N, size, size, 3) in [-1, 1]; ``c_org``, ``c_trg`` (N, c_dim), the images' own and target
        domains; ``mix`` (N,) in [0, 1], the share of the real image in each mixture.
    Returns: dict: ``"fake"``, ``"rec"`` (N, size, size, 3), translations there and back; the discriminator's answers
        ``"src_real"``, ``"src_fake"``, ``"src_mix"`` (N, H', W', 1) and ``"cls_real"``, ``"cls_fake"`` (N, c_dim).
    """

    def __init__(
        self,
        size: int = 128,
        c_dim: int = 5,
        width: int = 64,
        blocks: int = 6,
        D_width: int = 64,
        D_layers: int = 6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.G = StarGANGenerator(c_dim, width, blocks)
        self.D = StarGANDiscriminator(size, c_dim, D_width, D_layers)

    def call(self, image, c_org, c_trg, mix, training=False):
        fake = self.G(image, c_trg, training=training)
        of_real, of_fake = self.D(image), self.D(fake)
        return {
            "fake": fake,
            "rec": self.G(fake, c_org, training=training),
            "src_real": of_real["src"],
            "cls_real": of_real["cls"],
            "src_fake": of_fake["src"],
            "cls_fake": of_fake["cls"],
            "src_mix": self.D(interpolate(image, fake, mix))["src"],
        }


@keras.saving.register_keras_serializable("diptych")
class StarGANCriterion(keras.layers.Layer):
    """Both players' losses (equations 2 to 6, and 8), without the gradient penalty, which the trainer adds.

    Args:
        dataset: independent "attributes" (cross-entropies summed, divided by N), or exclusive "domains" (cross-entropy
            of the code's largest entry).
        lambda_cls, lambda_rec: weights of classifying the domain and of translating back.

    Inputs: ``outputs`` of :class:`StarGAN`; ``targets["image"]``, ``targets["c_org"]``, ``targets["c_trg"]``.
    Returns: dict of scalars: ``"D_real"``, ``"D_fake"``, ``"D_cls"``, ``"D"``; ``"G_fake"``, ``"G_cls"``, ``"G_rec"``,
        ``"G"``; the sums are weighted, the parts are not. ``"total"``, the sum of ``"G"`` and ``"D"``, which a
        training step lowers in turn.
    Raises: ValueError if ``dataset`` is unknown.
    """

    def __init__(self, dataset: str = "attributes", lambda_cls: float = 1.0, lambda_rec: float = 10.0, **kwargs):
        super().__init__(**kwargs)
        if dataset not in ("attributes", "domains"):
            raise ValueError(f"dataset={dataset!r} must be 'attributes' or 'domains'")
        self.dataset, self.lambda_cls, self.lambda_rec = dataset, lambda_cls, lambda_rec

    def classification(self, logits, code):
        """Cross-entropy of the predicted domains and the code."""
        if self.dataset == "attributes":
            losses = tf.nn.relu(logits) - logits * code + tf.nn.softplus(-tf.abs(logits))
            return tf.reduce_mean(tf.reduce_sum(losses, 1))
        return cross_entropy(logits, tf.argmax(code, 1))

    def discriminator(self, src_real, cls_real, src_fake, c_org) -> dict:
        """The discriminator's loss."""
        losses = {
            "D_real": adversarial_loss(src_real, True, "wgan"),
            "D_fake": adversarial_loss(src_fake, False, "wgan"),
            "D_cls": self.classification(cls_real, c_org),
        }
        return {**losses, "D": losses["D_real"] + losses["D_fake"] + self.lambda_cls * losses["D_cls"]}

    def generator(self, src_fake, cls_fake, rec, image, c_trg) -> dict:
        """The generator's loss."""
        losses = {
            "G_fake": adversarial_loss(src_fake, True, "wgan"),
            "G_cls": self.classification(cls_fake, c_trg),
            "G_rec": tf.reduce_mean(tf.abs(image - rec)),
        }
        total = losses["G_fake"] + self.lambda_cls * losses["G_cls"] + self.lambda_rec * losses["G_rec"]
        return {**losses, "G": total}

    def call(self, outputs, targets):
        losses = self.discriminator(outputs["src_real"], outputs["cls_real"], outputs["src_fake"], targets["c_org"])
        fake = (outputs["src_fake"], outputs["cls_fake"], outputs["rec"])
        losses |= self.generator(*fake, targets["image"], targets["c_trg"])
        return {**losses, "total": losses["G"] + losses["D"]}


class StarGANTrainer:
    """Alternating training: the discriminator, and in every ``n_critic``-th step also the generator.

    Args:
        model: a :class:`StarGAN`.
        criterion: its losses.
        learning_rate: of both players; see :func:`linear_decay`.
        lambda_gp: weight of the gradient penalty.
        n_critic: steps of the discriminator per step of the generator.
    """

    def __init__(self, model, criterion, learning_rate: float = 1e-4, lambda_gp: float = 10.0, n_critic: int = 5):
        self.model, self.criterion, self.lambda_gp, self.n_critic = model, criterion, lambda_gp, n_critic
        adam = functools.partial(Adam, lr=learning_rate, betas=(0.5, 0.999))
        self.generator = Player({"G": model.G}, adam)
        self.discriminator = Player({"D": model.D}, adam)
        self.steps = 0

    @property
    def gradients(self) -> dict:
        """Gradients of the last step by name: ``D.*`` from the loss ``"D"``, ``G.*`` from ``"G"``."""
        return {**self.generator.gradients, **self.discriminator.gradients}

    def step(self, inputs, targets) -> dict:
        """One step from ``"image"``, ``"c_org"``, ``"c_trg"``, ``"mix"``; the losses as each player saw them."""
        image, c_org, c_trg = inputs["image"], inputs["c_org"], inputs["c_trg"]
        G, D = functools.partial(self.model.G, training=True), self.model.D
        self.steps += 1
        with tf.GradientTape() as tape:  # mirror: two tapes
            real = D(image)
            fake = tf.stop_gradient(G(image, c_trg))
            losses = self.criterion.discriminator(real["src"], real["cls"], D(fake)["src"], c_org)
            # NOTE: the gradient is that of the sum over all patches
            losses["D_gp"] = gradient_penalty(lambda x: D(x)["src"], interpolate(image, fake, inputs["mix"]))
            losses["D"] = losses["D"] + self.lambda_gp * losses["D_gp"]
        self.discriminator.lower(losses["D"], tape)
        if self.steps % self.n_critic:
            return {**losses, "total": losses["D"]}
        with tf.GradientTape() as tape:
            fake = G(image, c_trg)
            answers = D(fake)
            losses |= self.criterion.generator(answers["src"], answers["cls"], G(fake, c_org), image, c_trg)
        self.generator.lower(losses["G"], tape)
        return {**losses, "total": losses["G"] + losses["D"]}


@keras.saving.register_keras_serializable("diptych")
class DomainCriterion(keras.layers.Layer):
    """The discriminator's loss on images that are all real, without a gradient penalty.

    Args:
        dataset: see :class:`StarGANCriterion`.

    Inputs: ``outputs`` of :class:`StarGANDiscriminator`; ``targets["c_org"]`` (N, c_dim).
    Returns: dict of scalars: ``"real"``, ``"cls"``, ``"total"``.
    """

    def __init__(self, dataset: str = "attributes", **kwargs):
        super().__init__(**kwargs)
        self.criterion = StarGANCriterion(dataset)

    def call(self, outputs, targets):
        real = adversarial_loss(outputs["src"], True, "wgan")
        cls = self.criterion.classification(outputs["cls"], targets["c_org"])
        return {"real": real, "cls": cls, "total": real + cls}


@keras.saving.register_keras_serializable("diptych")
class StarGANPostProcess(keras.layers.Layer):
    """Images with values for display.

    Inputs: ``outputs`` of a generator, or of a model that returns it under ``"fake"``, in [-1, 1].
    Returns: dict: ``"images"`` (N, H, W, 3) float in [0, 255].
    """

    def call(self, outputs):
        images = outputs["fake"] if isinstance(outputs, dict) else outputs
        return {"images": (images + 1) * 127.5}


def linear_decay(iteration: int, constant: int = 100_000, decay: int = 100_000, every: int = 1000) -> float:
    """Factor of the learning rate after an iteration: 1, then linearly to 0, in steps of several iterations."""
    return 1.0 - max(0, iteration // every * every - constant) / decay


def stargan_generator(**options) -> StarGANGenerator:
    return StarGANGenerator(**options)


def stargan_discriminator(**options) -> StarGANDiscriminator:
    return StarGANDiscriminator(**options)


def stargan_128(size=128, **options) -> StarGAN:
    return StarGAN(size=size, **options)


def stargan_256(size=256, **options) -> StarGAN:
    return StarGAN(size=size, **options)
