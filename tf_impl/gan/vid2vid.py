"""vid2vid: videos from label maps; a frame is the previous frame, warped, with newly visible parts painted.

"Video-to-Video Synthesis", 2018, arXiv:1808.06601. Parameter names: NVIDIA/vid2vid ``models/networks.py`` (CC BY-NC-SA
4.0: names and formulas alone), of the first scale, without a foreground model. What to look at: one part of the
generator paints, the other predicts where every pixel comes from and how much of it is kept; motion discriminators see
three frames and the flow between them.

Mirror notes:
- NHWC here, NCHW in PyTorch; labels and instances of three frames are (N, 3, H, W) in both.
- A training step needs gradients of several losses: calls of ``lower`` in PyTorch, tapes here.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.gan._patchgan import NORMS, conv, conv_transpose, linear_decay
from tf_impl.gan._perceptual import PerceptualDistance
from tf_impl.gan.pix2pixhd import (
    VGG_WEIGHTS,
    MultiscaleCriterion,
    MultiscaleDiscriminator,
    edges,
    feature_matching,
    one_hot,
    scales,
    scales_loss,
)
from tf_impl.layers.grid_sample import grid_sample
from tf_impl.layers.model import Model
from tf_impl.layers.padding import ReflectionPadding2D
from tf_impl.training.optimizers import Adam
from tf_impl.training.players import Player

__all__ = [
    "CompositeCriterion",
    "CompositeGenerator",
    "MultiscaleCriterion",
    "Vid2Vid",
    "Vid2VidCriterion",
    "Vid2VidPostProcess",
    "Vid2VidTrainer",
    "linear_decay",
    "vid2vid",
    "vid2vid_composite",
    "vid2vid_image_discriminator",
    "vid2vid_temporal_discriminator",
    "warp",
]

FRAMES = 3  # that the generator and the motion discriminators see
FLOW_SCALE = 20.0  # pixels of flow per unit of the network's output


def conv_relu(filters: int, kernel_size: int, strides: int = 1) -> list[keras.layers.Layer]:
    """A convolution, batch normalisation, ReLU; the 7x7 one pads by reflection, the others by zeros."""
    border = kernel_size == 7
    return [
        *([ReflectionPadding2D(3)] if border else []),
        conv(filters, kernel_size, strides=strides, padding=0 if border else 1),
        NORMS["batch"](),
        keras.layers.ReLU(),
    ]


@keras.saving.register_keras_serializable("diptych", "vid2vid.ResidualBlock")
class ResidualBlock(keras.layers.Layer):
    """Two convolutions with batch normalisation, and the input.  x: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv_block = keras.Sequential(
            [
                *(ReflectionPadding2D(1), conv(filters, 3), NORMS["batch"](), keras.layers.ReLU()),
                *(ReflectionPadding2D(1), conv(filters, 3), NORMS["batch"]()),
            ]
        )

    def call(self, x, training=False):
        return x + self.conv_block(x, training=training)


def warp(images, flow):
    """Warp images by a flow, repeating the border outside.

    Args:
        images: (N, H, W, C).
        flow: (N, H, W, 2), x and y in pixels.

    Returns:
        (N, H, W, C).
    """
    height, width = images.shape[1:3]
    one = tf.ones([], images.dtype)
    x, y = tf.meshgrid(tf.linspace(-one, one, width), tf.linspace(-one, one, height))
    grid = tf.stack([x + flow[..., 0] / ((width - 1) / 2), y + flow[..., 1] / ((height - 1) / 2)], -1)
    return grid_sample(images, grid, padding_mode="border", align_corners=True)


@keras.saving.register_keras_serializable("diptych")
class CompositeGenerator(Model):
    """The generator of a frame (section 3.2): it paints, warps the previous frame, and mixes both.

    Args:
        in_chans: channels of the maps of three frames.
        width: channels of the first layer.
        downs: halvings.
        blocks: residual blocks, those before the two parts and half as many in each part.

    Inputs: ``maps`` (N, H, W, in_chans) float, of the two previous frames and of this one; ``previous`` (N, H, W, 6),
        the two previous frames, in [-1, 1]; H and W multiples of 2 ** downs.
    Returns: dict: ``"image"`` (N, H, W, 3) in [-1, 1], ``"raw"``, the painted image, ``"flow"`` (N, H, W, 2) in pixels,
        ``"weight"`` (N, H, W, 1), the painted share, in [0, 1].
    """

    def __init__(self, in_chans: int = 108, width: int = 128, downs: int = 3, blocks: int = 9, **kwargs):
        super().__init__(**kwargs)
        deep, half = width * 2**downs, blocks // 2
        for name in ("model_down_seg", "model_down_img"):
            layers = conv_relu(width, 7)
            for i in range(downs):
                layers += conv_relu(width * 2 ** (i + 1), 3, 2)
            layers += [ResidualBlock(deep) for _ in range(blocks - half)]
            setattr(self, name, keras.Sequential(layers))
        for name in ("img", "flow"):
            setattr(self, f"model_res_{name}", keras.Sequential([ResidualBlock(deep) for _ in range(half)]))
            layers = []
            for i in reversed(range(downs)):
                layers += [conv_transpose(width * 2**i, 3, strides=2, padding=1, output_padding=1)]
                layers += [NORMS["batch"](), keras.layers.ReLU()]
            setattr(self, f"model_up_{name}", keras.Sequential(layers))
        tanh, sigmoid = (keras.layers.Activation(name) for name in ("tanh", "sigmoid"))
        self.model_final_img = keras.Sequential([ReflectionPadding2D(3), conv(3, 7), tanh])
        self.model_final_flow = keras.Sequential([ReflectionPadding2D(3), conv(2, 7)])
        self.model_final_w = keras.Sequential([ReflectionPadding2D(3), conv(1, 7), sigmoid])

    def call(self, maps, previous, training=False):
        x = self.model_down_seg(maps, training=training) + self.model_down_img(previous, training=training)
        painted = self.model_up_img(self.model_res_img(x, training=training), training=training)
        raw = self.model_final_img(painted)
        moving = self.model_up_flow(self.model_res_flow(x, training=training), training=training)
        flow, weight = FLOW_SCALE * self.model_final_flow(moving), self.model_final_w(moving)
        image = raw * weight + warp(previous[..., -3:], flow) * (1 - weight)
        return {"image": image, "raw": raw, "flow": flow, "weight": weight}


@keras.saving.register_keras_serializable("diptych")
class CompositeCriterion(keras.layers.Layer):
    """Losses of a generator alone: distance to the real frame, size of the flow, painted share.

    Args:
        weight: factor of the mean absolute difference.

    Inputs: ``outputs`` of :class:`CompositeGenerator`; ``targets["images"]`` (N, H, W, 3), the real frames.
    Returns: dict of scalars: ``"l1"``, ``"flow"``, ``"weight"``, ``"total"``.
    """

    def __init__(self, weight: float = 100.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, outputs, targets):
        losses = {
            "l1": self.weight * tf.reduce_mean(tf.abs(outputs["image"] - targets["images"])),
            "flow": tf.reduce_mean(tf.abs(outputs["flow"])),
            "weight": tf.reduce_mean(outputs["weight"]),
        }
        return {**losses, "total": sum(losses.values())}


@keras.saving.register_keras_serializable("diptych")
class Vid2Vid(Model):
    """Generator ``netG``, discriminators ``netD`` of frames and ``netD_T0``, ``netD_T1`` of motion.

    The second motion discriminator sees every third frame.

    Args:
        label_nc: number of labels.
        width, downs, blocks: of the generator.
        discriminator_width, layers, num_D: of the discriminators.

    Inputs: of the two previous frames and of this one ``labels`` and ``instances`` (N, 3, H, W) int64 and ``frames``
        (N, H, W, 9), the real frames in [-1, 1]; ``previous`` (N, H, W, 6), what was generated for the two previous
        frames; ``flow_ref`` (N, H, W, 4), the two real flows between the three frames, each x and y in pixels. Of the
        frames 6 and 3 before and this one, in the same way, ``skipped_frames``, ``skipped_previous``,
        ``skipped_flow_ref``.
    Returns: dict: the generator's outputs, and the output of layer j of the discriminator of scale i for real,
        generated and painted frames, ``"D_real_i_j"``, ``"D_fake_i_j"``, ``"D_raw_i_j"``, and for motion,
        ``"T0_real_i_j"``, ``"T0_fake_i_j"``, ``"T1_real_i_j"``, ``"T1_fake_i_j"``.
    """

    def __init__(
        self,
        label_nc: int = 35,
        width: int = 128,
        downs: int = 3,
        blocks: int = 9,
        discriminator_width: int = 64,
        layers: int = 3,
        num_D: int = 2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.label_nc = label_nc
        self.netG = CompositeGenerator(FRAMES * (label_nc + 1), width, downs, blocks)
        options = dict(width=discriminator_width, layers=layers, num_D=num_D, norm="batch")
        self.netD = MultiscaleDiscriminator(label_nc + 4, **options)
        motion = 3 * FRAMES + 2 * (FRAMES - 1)
        self.netD_T0, self.netD_T1 = (MultiscaleDiscriminator(motion, **options) for _ in range(2))

    def encode(self, labels, instances, dtype):
        """The maps of labels and edges of all frames, concatenated: (N, H, W, 3 * (label_nc + 1))."""
        frames = zip(tf.unstack(labels, axis=1), tf.unstack(instances, axis=1))
        return tf.concat([x for a, b in frames for x in (one_hot(a, self.label_nc, dtype), edges(b, dtype))], -1)

    def judge_frames(self, maps, inputs, generated, training=False) -> dict:
        """The frame discriminator's outputs for the last frame."""
        frames = {"D_real": inputs["frames"][..., -3:], "D_fake": generated["image"], "D_raw": generated["raw"]}
        found = {}
        for name, frame in frames.items():
            found |= self.netD.judge(tf.concat([maps[..., -self.label_nc - 1 :], frame], -1), name, training)
        return found

    def judge_motion(self, inputs, generated, training=False) -> dict:
        """The motion discriminators' outputs for the three frames that each sees."""
        found = {}
        for i, kind in enumerate(("", "skipped_")):
            flow = inputs[f"{kind}flow_ref"] / FLOW_SCALE
            fake = tf.concat([inputs[f"{kind}previous"], generated["image"]], -1)
            judge = (self.netD_T0, self.netD_T1)[i].judge
            for name, frames in (("real", inputs[f"{kind}frames"]), ("fake", fake)):
                found |= judge(tf.concat([frames, flow], -1), f"T{i}_{name}", training)
        return found

    def call(
        self,
        labels,
        instances,
        frames,
        previous,
        flow_ref,
        skipped_frames,
        skipped_previous,
        skipped_flow_ref,
        training=False,
    ):
        inputs = {"frames": frames, "previous": previous, "flow_ref": flow_ref, "skipped_frames": skipped_frames}
        inputs |= {"skipped_previous": skipped_previous, "skipped_flow_ref": skipped_flow_ref}
        maps = self.encode(labels, instances, frames.dtype)
        generated = self.netG(maps, previous, training=training)
        judged = self.judge_frames(maps, inputs, generated, training)
        return {**generated, **judged, **self.judge_motion(inputs, generated, training)}


def said(outputs, name: str) -> list[list]:
    """A discriminator's outputs under a name with an underscore, see :func:`scales`."""
    player, kind = name.split("_")
    return scales({key.removeprefix(f"{player}_"): x for key, x in outputs.items() if key.startswith(f"{name}_")}, kind)


def masked_l1(found, wanted, mask):
    """Mean absolute difference of two masked images."""
    return tf.reduce_mean(tf.abs(found * mask - wanted * mask))


@keras.saving.register_keras_serializable("diptych")
class Vid2VidCriterion(keras.layers.Layer):
    """The players' losses (equations 7 to 9 and appendix A).

    Args:
        lambda_feat: weight of the discriminators' features and of VGG's.
        lambda_t: weight of the distance to the previous frame, warped by the real flow.
        lambda_f: weight of the flow's distance to the real one, and of the real previous frame warped by it.
        widths: channels of VGG-19's stages.

    Inputs: ``outputs`` of :class:`Vid2Vid`; ``targets``: ``"frames"`` (N, H, W, 9), ``"previous"`` (N, H, W, 6),
        ``"flow_ref"`` (N, H, W, 4), as for the model, and ``"confidence"`` (N, H, W, 1), 1 where the last flow is
        reliable.
    Returns: dict of scalars: ``"G_GAN"``, ``"G_GAN_Feat"``, ``"G_VGG"``, ``"G_Warp"``, ``"F_Flow"``, ``"F_Warp"``,
        ``"G_T0_GAN"``, ``"G_T0_GAN_Feat"``, ``"G_T1_GAN"``, ``"G_T1_GAN_Feat"``, their sum ``"G"``; ``"D"``,
        ``"D_T0"``, ``"D_T1"`` of the discriminators; ``"total"``, the sum of these four.
    """

    def __init__(
        self,
        lambda_feat: float = 10.0,
        lambda_t: float = 10.0,
        lambda_f: float = 10.0,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.lambda_feat, self.lambda_t, self.lambda_f = lambda_feat, lambda_t, lambda_f
        layers = {layer: lambda_feat * weight for layer, weight in VGG_WEIGHTS.items()}
        self.perceptual = PerceptualDistance(layers, "l1", normalize=False, widths=widths)

    def generator(self, outputs, targets) -> dict:
        """The generator's loss."""
        before, real = targets["frames"][..., -6:-3], targets["frames"][..., -3:]
        flow, confidence = targets["flow_ref"][..., -2:], targets["confidence"]
        reals, fakes, raws = (said(outputs, f"D_{kind}") for kind in ("real", "fake", "raw"))
        moved = tf.stop_gradient(warp(targets["previous"][..., -3:], flow))
        losses = {
            "G_GAN": scales_loss(fakes, True) + scales_loss(raws, True),
            "G_GAN_Feat": sum(feature_matching(found, reals, self.lambda_feat) for found in (fakes, raws)),
            "G_VGG": self.perceptual(outputs["image"], real) + self.perceptual(outputs["raw"], real),
            "G_Warp": self.lambda_t * masked_l1(outputs["image"], moved, confidence),
            "F_Flow": self.lambda_f * masked_l1(outputs["flow"], flow, confidence),
            "F_Warp": self.lambda_f * masked_l1(warp(before, outputs["flow"]), real, confidence),
        }
        for i in range(2):
            reals, fakes = said(outputs, f"T{i}_real"), said(outputs, f"T{i}_fake")
            losses[f"G_T{i}_GAN"] = scales_loss(fakes, True)
            losses[f"G_T{i}_GAN_Feat"] = feature_matching(fakes, reals, self.lambda_feat)
        return {**losses, "G": sum(losses.values())}

    def discriminators(self, outputs) -> dict:
        """The discriminators' loss; real frames count once against generated and once against painted ones."""
        real = scales_loss(said(outputs, "D_real"), True)
        fake, raw = (scales_loss(said(outputs, f"D_{kind}"), False) for kind in ("fake", "raw"))
        losses = {"D": 0.5 * (real + fake) + 0.5 * (real + raw)}
        for i in range(2):
            real, fake = scales_loss(said(outputs, f"T{i}_real"), True), scales_loss(said(outputs, f"T{i}_fake"), False)
            losses[f"D_T{i}"] = 0.5 * (real + fake)
        return losses

    def call(self, outputs, targets):
        of_discriminators = self.discriminators(outputs)
        losses = self.generator(outputs, targets) | of_discriminators
        return {**losses, "total": losses["G"] + sum(of_discriminators.values())}


class Vid2VidTrainer:
    """All players from one generated frame: every loss sees the old networks.

    Args:
        model: a :class:`Vid2Vid`.
        criterion: its losses.
        learning_rate: of all players; see :func:`linear_decay`.
    """

    def __init__(self, model, criterion, learning_rate: float = 2e-4):
        self.model, self.criterion = model, criterion
        adam = functools.partial(Adam, lr=learning_rate, betas=(0.5, 0.999))
        self.players = {
            loss: Player({name: getattr(model, name)}, adam)
            for loss, name in (("G", "netG"), ("D", "netD"), ("D_T0", "netD_T0"), ("D_T1", "netD_T1"))
        }

    @property
    def gradients(self) -> dict:
        """Those of the last step by name, each network's from its own loss."""
        return {name: x for player in self.players.values() for name, x in player.gradients.items()}

    def step(self, inputs, targets) -> dict:
        """One step of every player from the model's and the criterion's inputs; returns the losses as each saw them."""
        model = self.model
        maps = model.encode(inputs["labels"], inputs["instances"], inputs["frames"].dtype)
        with tf.GradientTape() as tape:  # mirror: tapes
            generated = model.netG(maps, inputs["previous"], training=True)
            judged = model.judge_frames(maps, inputs, generated, True) | model.judge_motion(inputs, generated, True)
            losses = self.criterion.generator({**generated, **judged}, targets)
        self.players["G"].lower(losses["G"], tape)
        with tf.GradientTape(persistent=True) as tape:
            judged = model.judge_frames(maps, inputs, generated, True) | model.judge_motion(inputs, generated, True)
            of_discriminators = self.criterion.discriminators(judged)
        for name, loss in of_discriminators.items():
            self.players[name].lower(loss, tape)
        losses |= of_discriminators
        return {**losses, "total": losses["G"] + sum(of_discriminators.values())}


@keras.saving.register_keras_serializable("diptych")
class Vid2VidPostProcess(keras.layers.Layer):
    """Images with values for display.

    Inputs: ``outputs`` of a generator or of the whole model, ``"image"`` in [-1, 1].
    Returns: dict: ``"images"`` (N, H, W, 3) float in [0, 255].
    """

    def call(self, outputs):
        return {"images": (outputs["image"] + 1) * 127.5}


def vid2vid_composite(**options) -> CompositeGenerator:
    return CompositeGenerator(**options)


def vid2vid_image_discriminator(**options) -> MultiscaleDiscriminator:
    return MultiscaleDiscriminator(**{"in_chans": 39, "norm": "batch", **options})


def vid2vid_temporal_discriminator(**options) -> MultiscaleDiscriminator:
    return MultiscaleDiscriminator(**{"in_chans": 13, "norm": "batch", **options})


def vid2vid(**options) -> Vid2Vid:
    return Vid2Vid(**options)
