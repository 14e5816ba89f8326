"""vid2vid: videos from label maps; a frame is the previous frame, warped, with newly visible parts painted.

"Video-to-Video Synthesis", 2018, arXiv:1808.06601. Parameter names: NVIDIA/vid2vid ``models/networks.py`` (CC BY-NC-SA
4.0: names and formulas alone), of the first scale, without a foreground model. What to look at: one part of the
generator paints, the other predicts where every pixel comes from and how much of it is kept; motion discriminators see
three frames and the flow between them.

Mirror notes:
- NCHW here, NHWC in TensorFlow; labels and instances of three frames are (N, 3, H, W) in both.
- A training step needs gradients of several losses: calls of ``lower`` here, tapes in TensorFlow.
"""

import functools

import torch
from torch import nn

from torch_impl.gan._patchgan import initialize, linear_decay
from torch_impl.gan._perceptual import PerceptualDistance
from torch_impl.gan.pix2pixhd import (
    VGG_WEIGHTS,
    MultiscaleCriterion,
    MultiscaleDiscriminator,
    edges,
    feature_matching,
    one_hot,
    scales,
    scales_loss,
)
from torch_impl.layers.grid_sample import grid_sample
from torch_impl.training.optimizers import Adam
from torch_impl.training.players import Player

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


def conv_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    """A convolution, batch normalisation, ReLU; the 7x7 one pads by reflection, the others by zeros."""
    border = kernel_size == 7
    return [
        *([nn.ReflectionPad2d(3)] if border else []),
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, 0 if border else 1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


class ResidualBlock(nn.Module):
    """Two convolutions with batch normalisation, and the input.  x: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        conv = functools.partial(nn.Conv2d, channels, channels, 3)
        self.conv_block = nn.Sequential(
            *(nn.ReflectionPad2d(1), conv(), nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.ReflectionPad2d(1), conv(), nn.BatchNorm2d(channels)),
        )

    def forward(self, x):
        return x + self.conv_block(x)


def warp(images, flow):
    """Warp images by a flow, repeating the border outside.

    Args:
        images: (N, C, H, W).
        flow: (N, 2, H, W), x and y in pixels.

    Returns:
        (N, C, H, W).
    """
    height, width = images.shape[2:]
    options = dict(dtype=images.dtype, device=images.device)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, **options), torch.linspace(-1, 1, width, **options), indexing="ij"
    )
    grid = torch.stack([x + flow[:, 0] / ((width - 1) / 2), y + flow[:, 1] / ((height - 1) / 2)], -1)
    return grid_sample(images, grid, padding_mode="border", align_corners=True)


class CompositeGenerator(nn.Module):
    """The generator of a frame (section 3.2): it paints, warps the previous frame, and mixes both.

    Args:
        in_chans: channels of the maps of three frames.
        width: channels of the first layer.
        downs: halvings.
        blocks: residual blocks, those before the two parts and half as many in each part.

    Inputs: ``maps`` (N, in_chans, H, W) float, of the two previous frames and of this one; ``previous`` (N, 6, H, W),
        the two previous frames, in [-1, 1]; H and W multiples of 2 ** downs.
    Returns: dict: ``"image"`` (N, 3, H, W) in [-1, 1], ``"raw"``, the painted image, ``"flow"`` (N, 2, H, W) in pixels,
        ``"weight"`` (N, 1, H, W), the painted share, in [0, 1].
    """

    def __init__(self, in_chans: int = 108, width: int = 128, downs: int = 3, blocks: int = 9):
        super().__init__()
        deep, half = width * 2**downs, blocks // 2
        for name, channels in (("model_down_seg", in_chans), ("model_down_img", 3 * (FRAMES - 1))):
            layers = conv_relu(channels, width, 7)
            for i in range(downs):
                layers += conv_relu(width * 2**i, width * 2 ** (i + 1), 3, 2)
            layers += [ResidualBlock(deep) for _ in range(blocks - half)]
            setattr(self, name, nn.Sequential(*layers))
        for name in ("img", "flow"):
            setattr(self, f"model_res_{name}", nn.Sequential(*(ResidualBlock(deep) for _ in range(half))))
            layers = []
            for i in reversed(range(downs)):
                layers += [nn.ConvTranspose2d(width * 2 ** (i + 1), width * 2**i, 3, 2, 1, 1)]
                layers += [nn.BatchNorm2d(width * 2**i), nn.ReLU()]
            setattr(self, f"model_up_{name}", nn.Sequential(*layers))
        self.model_final_img = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())
        self.model_final_flow = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 2, 7))
        self.model_final_w = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 1, 7), nn.Sigmoid())
        initialize(self)

    def forward(self, maps, previous):
        x = self.model_down_seg(maps) + self.model_down_img(previous)
        raw = self.model_final_img(self.model_up_img(self.model_res_img(x)))
        moving = self.model_up_flow(self.model_res_flow(x))
        flow, weight = FLOW_SCALE * self.model_final_flow(moving), self.model_final_w(moving)
        image = raw * weight + warp(previous[:, -3:], flow) * (1 - weight)
        return {"image": image, "raw": raw, "flow": flow, "weight": weight}


class CompositeCriterion(nn.Module):
    """Losses of a generator alone: distance to the real frame, size of the flow, painted share.

    Args:
        weight: factor of the mean absolute difference.

    Inputs: ``outputs`` of :class:`CompositeGenerator`; ``targets["images"]`` (N, 3, H, W), the real frames.
    Returns: dict of scalars: ``"l1"``, ``"flow"``, ``"weight"``, ``"total"``.
    """

    def __init__(self, weight: float = 100.0):
        super().__init__()
        self.weight = weight

    def forward(self, outputs, targets):
        losses = {
            "l1": self.weight * (outputs["image"] - targets["images"]).abs().mean(),
            "flow": outputs["flow"].abs().mean(),
            "weight": outputs["weight"].mean(),
        }
        return {**losses, "total": sum(losses.values())}


class Vid2Vid(nn.Module):
    """Generator ``netG``, discriminators ``netD`` of frames and ``netD_T0``, ``netD_T1`` of motion.

    The second motion discriminator sees every third frame.

    Args:
        label_nc: number of labels.
        width, downs, blocks: of the generator.
        discriminator_width, layers, num_D: of the discriminators.

    Inputs: of the two previous frames and of this one ``labels`` and ``instances`` (N, 3, H, W) int64 and ``frames``
        (N, 9, H, W), the real frames in [-1, 1]; ``previous`` (N, 6, H, W), what was generated for the two previous
        frames; ``flow_ref`` (N, 4, H, W), the two real flows between the three frames, each x and y in pixels. Of the
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
    ):
        super().__init__()
        self.label_nc = label_nc
        self.netG = CompositeGenerator(FRAMES * (label_nc + 1), width, downs, blocks)
        options = dict(width=discriminator_width, layers=layers, num_D=num_D, norm="batch")
        self.netD = MultiscaleDiscriminator(label_nc + 4, **options)
        motion = 3 * FRAMES + 2 * (FRAMES - 1)
        self.netD_T0, self.netD_T1 = (MultiscaleDiscriminator(motion, **options) for _ in range(2))

    def encode(self, labels, instances, dtype):
        """The maps of labels and edges of all frames, concatenated: (N, 3 * (label_nc + 1), H, W)."""
        frames = zip(labels.unbind(1), instances.unbind(1))
        return torch.cat([x for a, b in frames for x in (one_hot(a, self.label_nc, dtype), edges(b, dtype))], 1)

    def judge_frames(self, maps, inputs, generated) -> dict:
        """The frame discriminator's outputs for the last frame."""
        frames = {"D_real": inputs["frames"][:, -3:], "D_fake": generated["image"], "D_raw": generated["raw"]}
        found = {}
        for name, frame in frames.items():
            found |= self.netD.judge(torch.cat([maps[:, -self.label_nc - 1 :], frame], 1), name)
        return found

    def judge_motion(self, inputs, generated) -> dict:
        """The motion discriminators' outputs for the three frames that each sees."""
        found = {}
        for i, kind in enumerate(("", "skipped_")):
            flow = inputs[f"{kind}flow_ref"] / FLOW_SCALE
            fake = torch.cat([inputs[f"{kind}previous"], generated["image"]], 1)
            judge = (self.netD_T0, self.netD_T1)[i].judge
            for name, frames in (("real", inputs[f"{kind}frames"]), ("fake", fake)):
                found |= judge(torch.cat([frames, flow], 1), f"T{i}_{name}")
        return found

    def forward(
        self, labels, instances, frames, previous, flow_ref, skipped_frames, skipped_previous, skipped_flow_ref
    ):
        inputs = {"frames": frames, "previous": previous, "flow_ref": flow_ref, "skipped_frames": skipped_frames}
        inputs |= {"skipped_previous": skipped_previous, "skipped_flow_ref": skipped_flow_ref}
        maps = self.encode(labels, instances, frames.dtype)
        generated = self.netG(maps, previous)
        return {**generated, **self.judge_frames(maps, inputs, generated), **self.judge_motion(inputs, generated)}


def said(outputs, name: str) -> list[list]:
    """A discriminator's outputs under a name with an underscore, see :func:`scales`."""
    player, kind = name.split("_")
    return scales({key.removeprefix(f"{player}_"): x for key, x in outputs.items() if key.startswith(f"{name}_")}, kind)


def masked_l1(found, wanted, mask):
    """Mean absolute difference of two masked images."""
    return (found * mask - wanted * mask).abs().mean()


class Vid2VidCriterion(nn.Module):
    """The players' losses (equations 7 to 9 and appendix A).

    Args:
        lambda_feat: weight of the discriminators' features and of VGG's.
        lambda_t: weight of the distance to the previous frame, warped by the real flow.
        lambda_f: weight of the flow's distance to the real one, and of the real previous frame warped by it.
        widths: channels of VGG-19's stages.

    Inputs: ``outputs`` of :class:`Vid2Vid`; ``targets``: ``"frames"`` (N, 9, H, W), ``"previous"`` (N, 6, H, W),
        ``"flow_ref"`` (N, 4, H, W), as for the model, and ``"confidence"`` (N, 1, H, W), 1 where the last flow is
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
    ):
        super().__init__()
        self.lambda_feat, self.lambda_t, self.lambda_f = lambda_feat, lambda_t, lambda_f
        layers = {layer: lambda_feat * weight for layer, weight in VGG_WEIGHTS.items()}
        self.perceptual = PerceptualDistance(layers, "l1", normalize=False, widths=widths)

    def generator(self, outputs, targets) -> dict:
        """The generator's loss."""
        before, real = targets["frames"][:, -6:-3], targets["frames"][:, -3:]
        flow, confidence = targets["flow_ref"][:, -2:], targets["confidence"]
        reals, fakes, raws = (said(outputs, f"D_{kind}") for kind in ("real", "fake", "raw"))
        moved = warp(targets["previous"][:, -3:], flow).detach()
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

    def forward(self, outputs, targets):
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
        generated = model.netG(maps, inputs["previous"])
        judged = model.judge_frames(maps, inputs, generated) | model.judge_motion(inputs, generated)
        losses = self.criterion.generator({**generated, **judged}, targets)
        self.players["G"].lower(losses["G"])  # mirror: tapes
        generated = {key: x.detach() for key, x in generated.items()}
        judged = model.judge_frames(maps, inputs, generated) | model.judge_motion(inputs, generated)
        of_discriminators = self.criterion.discriminators(judged)
        for name, loss in of_discriminators.items():
            self.players[name].lower(loss)
        losses |= of_discriminators
        return {**losses, "total": losses["G"] + sum(of_discriminators.values())}


class Vid2VidPostProcess(nn.Module):
    """Images with values for display.

    Inputs: ``outputs`` of a generator or of the whole model, ``"image"`` in [-1, 1].
    Returns: dict: ``"images"`` (N, 3, H, W) float in [0, 255].
    """

    def forward(self, outputs):
        return {"images": (outputs["image"] + 1) * 127.5}


def vid2vid_composite(**options) -> CompositeGenerator:
    return CompositeGenerator(**options)


def vid2vid_image_discriminator(**options) -> MultiscaleDiscriminator:
    return MultiscaleDiscriminator(**{"in_chans": 39, "norm": "batch", **options})


def vid2vid_temporal_discriminator(**options) -> MultiscaleDiscriminator:
    return MultiscaleDiscriminator(**{"in_chans": 13, "norm": "batch", **options})


def vid2vid(**options) -> Vid2Vid:
    return Vid2Vid(**options)
