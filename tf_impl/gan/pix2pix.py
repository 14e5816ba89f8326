"""pix2pix: translate one kind of picture into another with a U-Net that has to fool a discriminator of patches.

"Image-to-Image Translation with Conditional Adversarial Networks", 2016, arXiv:1611.07004.
Parameter names: junyanz/pytorch-CycleGAN-and-pix2pix ``models/networks.py`` (BSD-2-Clause). The reference's in-place
activation overwrites the skip tensor; the ReLU behind the concatenation makes that the same function.

Mirror notes:
- NHWC here, NCHW in PyTorch; the last axis is concatenated.
- A training step needs gradients of two losses: two tapes here, two ``backward`` calls in PyTorch.
"""

import functools

import keras
import tensorflow as tf

from tf_impl import state
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2d, ConvTranspose2d
from tf_impl.layers.initialization import normal
from tf_impl.layers.normalization import BatchNorm2d, InstanceNorm2d
from tf_impl.losses.adversarial import adversarial_loss
from tf_impl.training.optimizers import Adam

__all__ = [
    "NLayerDiscriminator",
    "PatchCriterion",
    "Pix2Pix",
    "Pix2PixCriterion",
    "Pix2PixPostProcess",
    "Pix2PixTrainer",
    "PixelDiscriminator",
    "ReconstructionCriterion",
    "UnetGenerator",
    "UnetSkipConnectionBlock",
    "linear_decay",
    "patchgan_70",
    "patchgan_n5",
    "pix2pix",
    "pixelgan",
    "translate",
    "unet_128",
    "unet_256",
]

NORMS = {"batch": BatchNorm2d, "instance": InstanceNorm2d}


def norm_layer(norm: str):
    """The normalisation of a name; a convolution before it has a bias only if it learns none itself."""
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} must be one of {sorted(NORMS)}")
    return NORMS[norm], norm == "instance"


class UnetSkipConnectionBlock(keras.layers.Layer):
    """One level of the U-Net: halve the size, go through the level below, double the size, and append to the input.

    Args:
        outer, inner: channels of the input (and the own output) and of the level below.
        in_channels: channels of the input where they are not ``outer``.
        submodule: the level below; None for the innermost.
        outermost: no activation before it, no skip around it, tanh behind it.
        norm: "batch" or "instance".
        dropout: rate behind the level.

    x: (N, H, W, C) -> (N, H, W, C + outer), or (N, H, W, outer) for the outermost.
    """

    def __init__(
        self,
        outer: int,
        inner: int,
        in_channels: int | None = None,
        submodule=None,
        outermost: bool = False,
        norm: str = "batch",
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.outermost = outermost
        make_norm, bias = norm_layer(norm)
        down = Conv2d(outer if in_channels is None else in_channels, inner, 4, 2, 1, bias=bias)
        up = functools.partial(ConvTranspose2d, out_channels=outer, kernel_size=4, stride=2, padding=1)
        if outermost:
            layers = [down, submodule, keras.layers.ReLU(), up(2 * inner), keras.layers.Activation("tanh")]
        elif submodule is None:
            layers = [LeakyReLU(0.2), down, keras.layers.ReLU(), up(inner, bias=bias), make_norm(outer)]
        else:
            layers = [LeakyReLU(0.2), down, make_norm(inner), submodule]
            layers += [keras.layers.ReLU(), up(2 * inner, bias=bias), make_norm(outer)]
            layers += [keras.layers.Dropout(dropout)] if dropout else []
        self.model = keras.Sequential(layers)

    def call(self, x, training=False):
        y = self.model(x, training=training)
        return y if self.outermost else tf.concat((x, y), -1)  # mirror: last axis is concatenated


class UnetGenerator(keras.Model):
    """The generator (section 6.1.1).

    Args:
        num_downs: how often the size is halved; 8 takes 256 pixels to 1.
        width: channels of the outermost level; doubled up to eightfold.
        in_chans, out_chans: channels of the pictures.
        norm: "batch" or "instance".
        dropout: rate of the middle levels with eightfold width.

    Inputs: (N, H, W, in_chans) float in [-1, 1]; H and W multiples of 2 ** num_downs.
    Returns: (N, H, W, out_chans) in [-1, 1].
    """

    def __init__(
        self,
        num_downs: int = 8,
        width: int = 64,
        in_chans: int = 3,
        out_chans: int = 3,
        norm: str = "batch",
        dropout: float = 0.5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_downs < 5:
            raise ValueError(f"num_downs={num_downs} must be 5 or more")
        self.num_downs = num_downs
        block = functools.partial(UnetSkipConnectionBlock, norm=norm)
        level = block(8 * width, 8 * width)
        for _ in range(num_downs - 5):
            level = block(8 * width, 8 * width, submodule=level, dropout=dropout)
        for factor in (4, 2, 1):
            level = block(factor * width, 2 * factor * width, submodule=level)
        self.model = block(out_chans, width, in_channels=in_chans, submodule=level, outermost=True)
        initialize(self)

    def call(self, images, training=False):
        if any(size % 2**self.num_downs for size in images.shape[1:3]):
            raise ValueError(
                f"images of {tuple(images.shape[1:3])}: height and width must be multiples of {2**self.num_downs}"
            )
        return self.model(images, training=training)


class NLayerDiscriminator(keras.Model):
    """PatchGAN: a logit for every overlapping patch; 70 pixels wide for three layers (section 6.1.2).

    Args:
        in_chans: channels of both pictures together.
        width: channels of the first layer; doubled up to eightfold.
        layers: convolutions of stride 2.
        norm: "batch" or "instance".

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, H', W', 1); 30 x 30 for three layers and 256 pixels.
    """

    def __init__(self, in_chans: int = 6, width: int = 64, layers: int = 3, norm: str = "batch", **kwargs):
        super().__init__(**kwargs)
        make_norm, bias = norm_layer(norm)
        model = [Conv2d(in_chans, width, 4, 2, 1), LeakyReLU(0.2)]
        channels = width
        for i in range(1, layers + 1):
            wider = width * min(2**i, 8)
            stride = 2 if i < layers else 1
            model += [Conv2d(channels, wider, 4, stride, 1, bias=bias), make_norm(wider), LeakyReLU(0.2)]
            channels = wider
        model += [Conv2d(channels, 1, 4, 1, 1)]
        self.model = keras.Sequential(model)
        initialize(self)

    def call(self, images, training=False):
        return self.model(images, training=training)


class PixelDiscriminator(keras.Model):
    """PixelGAN: a logit for every pixel on its own.

    Args:
        in_chans: channels of both pictures together.
        width: channels of the first layer.
        norm: "batch" or "instance".

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, H, W, 1).
    """

    def __init__(self, in_chans: int = 6, width: int = 64, norm: str = "batch", **kwargs):
        super().__init__(**kwargs)
        make_norm, bias = norm_layer(norm)
        self.net = keras.Sequential(
            [
                Conv2d(in_chans, width, 1),
                LeakyReLU(0.2),
                Conv2d(width, 2 * width, 1, bias=bias),
                make_norm(2 * width),
                LeakyReLU(0.2),
                Conv2d(2 * width, 1, 1, bias=bias),
            ]
        )
        initialize(self)

    def call(self, images, training=False):
        return self.net(images, training=training)


def initialize(model) -> None:
    """Convolutions normal(0, 0.02), scales of batch normalisation normal(1, 0.02), biases 0."""
    normal(model, std=0.02)
    for layer in model._flatten_layers():
        if isinstance(layer, BatchNorm2d):
            layer.gamma_initializer = keras.initializers.RandomNormal(1.0, 0.02)


class Pix2Pix(keras.Model):
    """Generator ``netG`` and conditional discriminator ``netD``.

    Args:
        num_downs, dropout: of the generator.
        width: of the generator and of the discriminator.
        norm: "batch" or "instance", of both.
        layers: of the discriminator.

    Inputs: ``A``, the pictures to translate, and ``B``, what they should become: (N, H, W, 3) float in [-1, 1].
    Returns: dict: ``"fake_B"`` (N, H, W, 3), and the discriminator's logits on both pairs, ``"pred_fake"`` and
        ``"pred_real"`` (N, H', W', 1).
    """

    def __init__(
        self, num_downs: int = 8, dropout: float = 0.5, width: int = 64, norm: str = "batch", layers: int = 3, **kwargs
    ):
        super().__init__(**kwargs)
        self.netG = UnetGenerator(num_downs, width, norm=norm, dropout=dropout)
        self.netD = NLayerDiscriminator(6, width, layers, norm)

    def call(self, A, B, training=False):
        fake_B = self.netG(A, training=training)
        pred_fake = self.netD(tf.concat((A, fake_B), -1), training=training)
        pred_real = self.netD(tf.concat((A, B), -1), training=training)
        return {"fake_B": fake_B, "pred_fake": pred_fake, "pred_real": pred_real}


class Pix2PixCriterion(keras.layers.Layer):
    """Both players' losses (equations 1 to 4).

    Args:
        lambda_l1: weight of the distance to the real picture.
        mode: see :func:`adversarial_loss`.

    Inputs: ``outputs`` of :class:`Pix2Pix`; ``targets["B"]``, the real pictures.
    Returns: dict of scalars: ``"D_fake"``, ``"D_real"``, their mean ``"D"``, ``"G_GAN"``, the weighted ``"G_L1"``,
        their sum ``"G"``, and ``"total"``, the sum of ``"D"`` and ``"G"``, which a training step lowers in turn.
    """

    def __init__(self, lambda_l1: float = 100.0, mode: str = "vanilla", **kwargs):
        super().__init__(**kwargs)
        self.lambda_l1, self.mode = lambda_l1, mode

    def discriminator(self, pred_fake, pred_real) -> dict:
        """The discriminator's part."""
        fake = adversarial_loss(pred_fake, False, self.mode)
        real = adversarial_loss(pred_real, True, self.mode)
        return {"D_fake": fake, "D_real": real, "D": 0.5 * (fake + real)}

    def generator(self, pred_fake, fake_B, B) -> dict:
        """The generator's part."""
        gan = adversarial_loss(pred_fake, True, self.mode)
        l1 = self.lambda_l1 * tf.reduce_mean(tf.abs(fake_B - B))
        return {"G_GAN": gan, "G_L1": l1, "G": gan + l1}

    def call(self, outputs, targets):
        losses = self.discriminator(outputs["pred_fake"], outputs["pred_real"])
        losses |= self.generator(outputs["pred_fake"], outputs["fake_B"], targets["B"])
        return {**losses, "total": losses["D"] + losses["G"]}


class ReconstructionCriterion(keras.layers.Layer):
    """The generator's distance to the real pictures alone.

    Args:
        weight: factor of the mean absolute difference.

    Inputs: ``outputs`` (N, H, W, 3); ``targets["B"]``, the real pictures.
    Returns: dict of scalars: ``"l1"``, ``"total"``.
    """

    def __init__(self, weight: float = 100.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, outputs, targets):
        l1 = self.weight * tf.reduce_mean(tf.abs(outputs - targets["B"]))
        return {"l1": l1, "total": l1}


class PatchCriterion(keras.layers.Layer):
    """A discriminator's loss on pairs that are all real.

    Inputs: ``outputs``, logits (N, H', W', 1); no targets.
    Returns: dict of scalars: ``"real"``, ``"total"``.
    """

    def call(self, outputs, targets):
        real = adversarial_loss(outputs, True)
        return {"real": real, "total": real}


class Pix2PixPostProcess(keras.layers.Layer):
    """Pictures for the screen.

    Inputs: ``outputs`` of :class:`Pix2Pix` or of a generator, in [-1, 1].
    Returns: dict: ``"pictures"`` (N, H, W, 3) float in [0, 255].
    """

    def call(self, outputs):
        images = outputs["fake_B"] if isinstance(outputs, dict) else outputs
        return {"pictures": (images + 1) * 127.5}


class Pix2PixTrainer:
    """Alternating training (section 3.3): first the discriminator, then the generator against the updated one.

    Args:
        model: a :class:`Pix2Pix`.
        criterion: its losses.
        learning_rate: of both players; see :func:`linear_decay`.

    ``gradients`` holds the gradients of the last step by name: ``netD.*`` of ``"D"``, ``netG.*`` of ``"G"``.
    """

    def __init__(self, model, criterion=None, learning_rate: float = 2e-4):
        self.model = model
        self.criterion = Pix2PixCriterion() if criterion is None else criterion
        self.generator, self.discriminator = (
            Adam((variable for variable, _ in state.trainable(net).values()), learning_rate, (0.5, 0.999))
            for net in (model.netG, model.netD)
        )
        self.gradients = {}

    def step(self, inputs, targets) -> dict:
        """One step of each player from ``inputs["A"]`` and ``targets["B"]``; the losses as each saw them."""
        A, B = inputs["A"], targets["B"]
        netG, netD = self.model.netG, self.model.netD
        with tf.GradientTape(watch_accessed_variables=False) as tape:  # mirror: two tapes
            tape.watch([p.value for p in self.generator.params])
            fake_B = netG(A, training=True)
            with tape.stop_recording():
                losses, of_discriminator = self._discriminator_step(A, B, fake_B)
            losses |= self.criterion.generator(netD(tf.concat((A, fake_B), -1), training=True), fake_B, B)
        of_generator = tape.gradient(losses["G"], [p.value for p in self.generator.params])
        self.generator.step(of_generator)
        names = [f"netG.{name}" for name in state.trainable(netG)] + [f"netD.{name}" for name in state.trainable(netD)]
        self.gradients = dict(zip(names, [*of_generator, *of_discriminator], strict=True))
        return {**losses, "total": losses["D"] + losses["G"]}

    def _discriminator_step(self, A, B, fake_B):
        netD, variables = self.model.netD, [p.value for p in self.discriminator.params]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses = self.criterion.discriminator(
                netD(tf.concat((A, fake_B), -1), training=True), netD(tf.concat((A, B), -1), training=True)
            )
        gradients = tape.gradient(losses["D"], variables)
        self.discriminator.step(gradients)
        return losses, gradients


def linear_decay(epoch: int, constant: int = 100, decay: int = 100) -> float:
    """Factor of the learning rate in an epoch counted from 0: 1 for ``constant`` epochs, then linear to 0."""
    return 1.0 - max(0, epoch + 1 - constant) / (decay + 1)


def translate(generator, images, mode: str = "train_stats"):
    """Pictures of a generator.

    Args:
        generator: a :class:`UnetGenerator`.
        images: (N, H, W, 3) float in [-1, 1].
        mode: "train_stats" keeps dropout and the batch's own statistics, as in the paper (section 3.4); "eval" doesn't.

    Returns:
        (N, H, W, 3) in [-1, 1].
    """
    if mode not in ("train_stats", "eval"):
        raise ValueError(f"mode={mode!r} must be 'train_stats' or 'eval'")
    before = state.state_dict(generator)
    fake = generator(images, training=mode == "train_stats")
    state.load_state_dict(generator, before)
    return fake


def unet_256(**options) -> UnetGenerator:
    return UnetGenerator(**{"num_downs": 8, **options})


def unet_128(**options) -> UnetGenerator:
    return UnetGenerator(**{"num_downs": 7, **options})


def patchgan_70(**options) -> NLayerDiscriminator:
    return NLayerDiscriminator(**{"layers": 3, **options})


def patchgan_n5(**options) -> NLayerDiscriminator:
    return NLayerDiscriminator(**{"layers": 5, **options})


def pixelgan(**options) -> PixelDiscriminator:
    return PixelDiscriminator(**options)


def pix2pix(**options) -> Pix2Pix:
    return Pix2Pix(**options)
