"""StarGAN: one generator translates between all domains of a set; a code given with the image selects the target.

"StarGAN: Unified Generative Adversarial Networks for Multi-Domain Image-to-Image Translation", 2017, arXiv:1711.09020.
Parameter names: yunjey/stargan ``model.py`` (MIT).
What to look at: the discriminator also classifies the domain, so one discriminator serves all of them.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- A training step needs gradients of two losses: two calls of ``lower`` here, two tapes in TensorFlow.
- PyTorch's instance normalisation can keep the buffers that checkpoints contain; Keras' has none.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.gan._patchgan import ReconstructionCriterion
from torch_impl.losses.adversarial import adversarial_loss, gradient_penalty, interpolate
from torch_impl.losses.cross_entropy import cross_entropy
from torch_impl.training.optimizers import Adam
from torch_impl.training.players import Player

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


class TrackingInstanceNorm(nn.InstanceNorm2d):  # mirror: buffers
    """Instance normalisation with a learnt scale and shift, and the buffers that checkpoints contain.

    Args:
        num_features: C.
        running: in evaluation mode, normalise with the buffers. The reference never does, because it never leaves
            training mode.

    x: (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, num_features: int, running: bool = False):
        super().__init__(num_features, affine=True, track_running_stats=True)
        self.running = running

    def forward(self, x):
        if self.running and not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if self.training:
            with torch.no_grad():
                variance, mean = torch.var_mean(x, (2, 3))
                self.running_mean += self.momentum * (mean.mean(0) - self.running_mean)
                self.running_var += self.momentum * (variance.mean(0) - self.running_var)
                self.num_batches_tracked += 1
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


class TrackingResidualBlock(nn.Module):
    """Two normalised convolutions and the input.  x: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, running: bool = False):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            TrackingInstanceNorm(channels, running),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            TrackingInstanceNorm(channels, running),
        )

    def forward(self, x):
        return x + self.main(x)


class StarGANGenerator(nn.Module):
    """The generator (table 4).

    Args:
        c_dim: length of the code: a number for each attribute or domain; for several sets together, with the mask that
            selects the set.
        width: channels of the first layer.
        blocks: residual blocks.
        running: normalise with running statistics in evaluation mode, which the reference never does.

    Inputs: ``image`` (N, 3, H, W) float in [-1, 1], H and W multiples of 4; ``code`` (N, c_dim).
    Returns: (N, 3, H, W) in [-1, 1].
    """

    def __init__(self, c_dim: int = 5, width: int = 64, blocks: int = 6, running: bool = False):
        super().__init__()
        norm = functools.partial(TrackingInstanceNorm, running=running)
        conv = functools.partial(nn.Conv2d, bias=False)
        main = [conv(3 + c_dim, width, 7, 1, 3), norm(width), nn.ReLU()]
        for channels in (width, 2 * width):
            main += [conv(channels, 2 * channels, 4, 2, 1), norm(2 * channels), nn.ReLU()]
        main += [TrackingResidualBlock(4 * width, running) for _ in range(blocks)]
        for channels in (2 * width, width):
            main += [nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1, bias=False), norm(channels), nn.ReLU()]
        self.main = nn.Sequential(*main, conv(width, 3, 7, 1, 3), nn.Tanh())

    def forward(self, image, code):
        code = code[:, :, None, None].expand(-1, -1, *image.shape[2:])  # (N, c_dim, H, W)
        return self.main(torch.cat((image, code), 1))


class StarGANDiscriminator(nn.Module):
    """The discriminator (table 5).

    Args:
        size: of the images, one number or (height, width).
        c_dim: number of attributes or domains.
        width: channels of the first layer, doubled in each.
        layers: halvings of the image.

    Inputs: (N, 3, size, size) float in [-1, 1].
    Returns: dict: ``"src"`` (N, 1, H', W'), a score for each patch; ``"cls"`` (N, c_dim), logits of the domains.
    """

    def __init__(self, size: int | tuple[int, int] = 128, c_dim: int = 5, width: int = 64, layers: int = 6):
        super().__init__()
        sides = (size, size) if isinstance(size, int) else size
        main, channels = [], 3
        for i in range(layers):
            main += [nn.Conv2d(channels, width * 2**i, 4, 2, 1), nn.LeakyReLU(0.01)]
            channels = width * 2**i
        self.main = nn.Sequential(*main)
        self.conv1 = nn.Conv2d(channels, 1, 3, 1, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, c_dim, tuple(side // 2**layers for side in sides), bias=False)

    def forward(self, images):
        x = self.main(images)
        return {"src": self.conv1(x), "cls": self.conv2(x).flatten(1)}


class StarGAN(nn.Module):
    """Generator ``G`` and discriminator ``D``.

    Args:
        size, c_dim: of the images and of the code.
        width, blocks: of the generator.
        D_width, D_layers: of the discriminator.

    Inputs: ``image`` (N, 3, size, size) in [-1, 1]; ``c_org``, ``c_trg`` (N, c_dim), the images' own and target
        domains; ``mix`` (N,) in [0, 1], the share of the real image in each mixture.
    Returns: dict: ``"fake"``, ``"rec"`` (N, 3, size, size), translations there and back; the discriminator's answers
        ``"src_real"``, ``"src_fake"``, ``"src_mix"`` (N, 1, H', W') and ``"cls_real"``, ``"cls_fake"`` (N, c_dim).
    """

    def __init__(
        self,
        size: int = 128,
        c_dim: int = 5,
        width: int = 64,
        blocks: int = 6,
        D_width: int = 64,
        D_layers: int = 6,
    ):
        super().__init__()
        self.G = StarGANGenerator(c_dim, width, blocks)
        self.D = StarGANDiscriminator(size, c_dim, D_width, D_layers)

    def forward(self, image, c_org, c_trg, mix):
        fake = self.G(image, c_trg)
        of_real, of_fake = self.D(image), self.D(fake)
        return {
            "fake": fake,
            "rec": self.G(fake, c_org),
            "src_real": of_real["src"],
            "cls_real": of_real["cls"],
            "src_fake": of_fake["src"],
            "cls_fake": of_fake["cls"],
            "src_mix": self.D(interpolate(image, fake, mix))["src"],
        }


class StarGANCriterion(nn.Module):
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

    def __init__(self, dataset: str = "attributes", lambda_cls: float = 1.0, lambda_rec: float = 10.0):
        super().__init__()
        if dataset not in ("attributes", "domains"):
            raise ValueError(f"dataset={dataset!r} must be 'attributes' or 'domains'")
        self.dataset, self.lambda_cls, self.lambda_rec = dataset, lambda_cls, lambda_rec

    def classification(self, logits, code):
        """Cross-entropy of the predicted domains and the code."""
        if self.dataset == "attributes":
            losses = F.relu(logits) - logits * code + F.softplus(-logits.abs())
            return losses.sum(1).mean()
        return cross_entropy(logits, code.argmax(1))

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
            "G_rec": (image - rec).abs().mean(),
        }
        total = losses["G_fake"] + self.lambda_cls * losses["G_cls"] + self.lambda_rec * losses["G_rec"]
        return {**losses, "G": total}

    def forward(self, outputs, targets):
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
        G, D = self.model.G, self.model.D
        self.steps += 1
        real = D(image)
        fake = G(image, c_trg).detach()
        losses = self.criterion.discriminator(real["src"], real["cls"], D(fake)["src"], c_org)
        # NOTE: the gradient is that of the sum over all patches
        losses["D_gp"] = gradient_penalty(lambda x: D(x)["src"], interpolate(image, fake, inputs["mix"]))
        losses["D"] = losses["D"] + self.lambda_gp * losses["D_gp"]
        self.discriminator.lower(losses["D"])  # mirror: two tapes
        if self.steps % self.n_critic:
            return {**losses, "total": losses["D"]}
        fake = G(image, c_trg)
        answers = D(fake)
        losses |= self.criterion.generator(answers["src"], answers["cls"], G(fake, c_org), image, c_trg)
        self.generator.lower(losses["G"])
        return {**losses, "total": losses["G"] + losses["D"]}


class DomainCriterion(nn.Module):
    """The discriminator's loss on images that are all real, without a gradient penalty.

    Args:
        dataset: see :class:`StarGANCriterion`.

    Inputs: ``outputs`` of :class:`StarGANDiscriminator`; ``targets["c_org"]`` (N, c_dim).
    Returns: dict of scalars: ``"real"``, ``"cls"``, ``"total"``.
    """

    def __init__(self, dataset: str = "attributes"):
        super().__init__()
        self.criterion = StarGANCriterion(dataset)

    def forward(self, outputs, targets):
        real = adversarial_loss(outputs["src"], True, "wgan")
        cls = self.criterion.classification(outputs["cls"], targets["c_org"])
        return {"real": real, "cls": cls, "total": real + cls}


class StarGANPostProcess(nn.Module):
    """Images with values for display.

    Inputs: ``outputs`` of a generator, or of a model that returns it under ``"fake"``, in [-1, 1].
    Returns: dict: ``"images"`` (N, 3, H, W) float in [0, 255].
    """

    def forward(self, outputs):
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
