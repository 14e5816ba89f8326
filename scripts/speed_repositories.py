"""Groups of ``scripts.speed_parts`` whose other implementations are in no package: networks of published repositories.

Each is a clone in one folder, under its own name. Besides the packages of this project, pysot and video_analyst need
yacs, the latter also loguru and opencv-python-headless.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

from scripts.timing import FEW_RUNS, Part, Twins, eager, forward, training_step

__all__ = ["GROUPS", "REPOSITORIES"]

PYSOT = {  # beginnings of SiamMask's names -> of pysot's
    "features.features.": "backbone.",
    "features.": "neck.",
    "rpn_model.": "rpn_head.",
    "mask_model.mask.": "mask_head.",
}

REPOSITORIES = (  # on github.com
    *("deepinsight/insightface", "biubug6/Pytorch_Retinaface", "filipradenovic/cnnimageretrieval-pytorch"),
    *("MegviiDetection/video_analyst", "STVIR/pysot", "xinntao/ESRGAN", "NVlabs/stylegan2-ada-pytorch"),
    *("rosinality/style-based-gan-pytorch", "facebookresearch/pytorch_GAN_zoo"),
)


@contextlib.contextmanager
def modules_of(folder: Path) -> Iterator[None]:
    """Import from a folder and build what is imported; then its names, which others share (``models``), are free."""
    before, own = set(sys.modules), {path.stem for path in folder.iterdir()}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in own:
                del sys.modules[name]


def whole(pair: Twins, name: str, theirs, repository: str) -> Part:
    """Whole networks with equal weights, whose names are the same."""
    theirs.load_state_dict(pair.torch.model.state_dict())
    other = eager(theirs.eval(), *pair.torch.tensors(pair.inputs).values())
    return pair.part(name, forward, pair.inputs, other=other, package=repository)


def of_pysot(name: str) -> str:
    """The name of a tensor of SiamMask in pysot; others have none of these beginnings."""
    first = next((beginning for beginning in PYSOT if name.startswith(beginning)), "")
    return PYSOT.get(first, "") + name.removeprefix(first)


def published_faces(folder: Path) -> Iterator[Part]:
    """Recognition and detection of faces."""
    with modules_of(folder / "insightface/recognition/arcface_torch/backbones"):
        from iresnet import iresnet50

        theirs = iresnet50()
    yield whole(Twins("iresnet50", batch=8), "iresnet50: 8 faces of 112x112", theirs, "insightface")

    with modules_of(folder / "Pytorch_Retinaface"):
        from data.config import cfg_mnet, cfg_re50
        from models.retinaface import RetinaFace

        networks = {
            name: RetinaFace({**settings, "pretrain": False})
            for name, settings in (("retinaface_mobilenet025", cfg_mnet), ("retinaface_resnet50", cfg_re50))
        }
    for name, theirs in networks.items():
        yield whole(Twins(name), f"{name}: network at 640x640", theirs, "Pytorch_Retinaface")


def published_descriptors(folder: Path) -> Iterator[Part]:
    """Descriptors of images for retrieval."""
    with modules_of(folder / "cnnimageretrieval-pytorch"):
        from cirtorch.networks.imageretrievalnet import init_network

        theirs = init_network({"architecture": "resnet50", "pooling": "gem", "whitening": True, "pretrained": False})
    pair = Twins("gem_resnet50", size=(362, 362))
    yield whole(pair, "gem_resnet50: the descriptor of an image of 362x362", theirs, "cnnimageretrieval-pytorch")


def published_trackers(folder: Path) -> Iterator[Part]:
    """Siamese trackers' networks of the first frame and of a later one."""
    import torch

    with modules_of(folder / "video_analyst"):
        from videoanalyst.model.backbone.backbone_impl.alexnet_bn import AlexNet
        from videoanalyst.model.backbone.backbone_impl.googlenet import Inception3
        from videoanalyst.model.task_head.taskhead_impl.track_head import DenseboxHead
        from videoanalyst.model.task_model.taskmodel_impl.siamese_track import SiamTrack

        networks = {}
        for name, trunk, settings in (
            ("siamfcpp_alexnet", AlexNet(), {}),
            ("siamfcpp_googlenet", Inception3(), {"score_size": 19, "num_conv3x3": 2, "head_conv_bn": [False, False]}),
        ):
            head = DenseboxHead()
            head.set_hps(settings)
            networks[name] = SiamTrack(trunk, head)
            for part in (trunk, head, networks[name]):
                part.update_params()

    with modules_of(folder / "pysot"):
        from pysot.core.config import cfg
        from pysot.models.model_builder import ModelBuilder

        cfg.BACKBONE.TYPE = "resnet50"  # experiments/siamrpn_r50_l234_dwxcorr/config.yaml
        cfg.BACKBONE.KWARGS.update(used_layers=[2, 3, 4])
        cfg.ADJUST.KWARGS.update(in_channels=[512, 1024, 2048], out_channels=[256] * 3)
        cfg.RPN.KWARGS.update(anchor_num=5, in_channels=[256] * 3, weighted=True)
        networks["siamrpn_r50_l234_dwxcorr"] = ModelBuilder()
        cfg.MASK.MASK = True  # experiments/siammask_r50_l3/config.yaml, without the refinement
        cfg.BACKBONE.KWARGS.update(used_layers=[0, 1, 2, 3])
        cfg.ADJUST.KWARGS.update(in_channels=[1024], out_channels=[256])
        cfg.RPN.TYPE = "DepthwiseRPN"
        cfg.RPN.KWARGS.clear()
        cfg.RPN.KWARGS.update(anchor_num=5, in_channels=256, out_channels=256)
        cfg.MASK.KWARGS.update(in_channels=256, hidden=256, out_channels=63 * 63)
        networks["siammask_base"] = ModelBuilder()

    for name, theirs in networks.items():
        cfg.MASK.MASK = name == "siammask_base"
        pair = Twins(name)
        theirs.load_state_dict({of_pysot(key): value for key, value in pair.torch.model.state_dict().items()})
        theirs.eval()
        images = pair.torch.tensors(pair.inputs)
        with torch.no_grad():
            kernels = {
                panel: panel.model.template(panel.tensors(pair.inputs)["template"])
                for panel in (pair.torch, pair.tensorflow)
            }
        if name.startswith("siamfcpp"):
            repository, first = "video_analyst", functools.partial(theirs, phase="feature")
            later = eager(functools.partial(theirs, phase="track"), images["search"], *kernels[pair.torch])
        else:
            repository, first = "pysot", theirs.template
            later = eager(theirs.track, images["search"])

        def template(panel, inputs):
            return panel.model.template(inputs["template"])

        def track(panel, inputs, kernels=kernels):
            return panel.model.track(kernels[panel], inputs["search"])

        yield pair.part(
            f"{name}: the first frame's network",
            template,
            pair.inputs,
            other=eager(first, images["template"]),
            package=repository,
        )
        yield pair.part(f"{name}: a later frame's network", track, pair.inputs, other=later, package=repository)


def published_generators(folder: Path) -> Iterator[Part]:
    """Generators, and a training step of StyleGAN2."""
    import torch

    with modules_of(folder / "ESRGAN"):
        from RRDBNet_arch import RRDBNet

        theirs = RRDBNet(3, 3, 64, 23, 32).eval()
    pair = Twins("rrdbnet_x4", size=(128, 128))
    # the names are older ones, in the same order
    theirs.load_state_dict(dict(zip(theirs.state_dict(), pair.torch.model.state_dict().values(), strict=True)))
    (images,) = pair.torch.tensors(pair.inputs).values()
    yield pair.part(
        "rrdbnet_x4: an image of 128x128", forward, pair.inputs, other=eager(theirs, images), package="ESRGAN"
    )

    with modules_of(folder / "stylegan2-ada-pytorch"):
        from training.loss import StyleGAN2Loss
        from training.networks import Discriminator, Generator

        generator = Generator(512, 0, 512, 256, 3, synthesis_kwargs={"channel_base": 16384})
        discriminator = Discriminator(0, 256, 3, channel_base=16384)
    pair = Twins("stylegan2_generator_256")
    pair.inputs["cutoff"][:] = 14  # no second style
    generator.load_state_dict(pair.torch.model.state_dict())
    z = pair.torch.tensors(pair.inputs)["z"]
    other = eager(functools.partial(generator.eval(), noise_mode="const"), z, None)
    yield pair.part(
        "stylegan2_generator_256: an image", forward, pair.inputs, other=other, package="stylegan2-ada-pytorch"
    )

    players = {"G": generator.train(), "D": discriminator.train()}
    optimizers = {key: torch.optim.Adam(player.parameters(), 2e-3, (0.0, 0.99)) for key, player in players.items()}
    loss = StyleGAN2Loss("cpu", generator.mapping, generator.synthesis, discriminator, pl_batch_shrink=1)
    average = [parameter.detach().clone() for parameter in generator.parameters()]
    images, labels = torch.randn(1, 3, 256, 256), torch.zeros(1, 0)

    def step():
        for phase in ("Gmain", "Greg", "Dmain", "Dreg"):
            for key, player in players.items():
                player.requires_grad_(key == phase[0])
            optimizers[phase[0]].zero_grad()
            loss.accumulate_gradients(phase, images, labels, z, labels, sync=True, gain=1)
            optimizers[phase[0]].step()
        with torch.no_grad():
            for kept, parameter in zip(average, generator.parameters(), strict=True):
                kept.lerp_(parameter, 1e-3)

    ours, _ = training_step("stylegan2_256", {}, {"every": (1, 1)})
    name = "stylegan2_256: a training step with both penalties"
    yield Part(name, ours, None, step, "stylegan2-ada-pytorch", runs=FEW_RUNS)

    # the names of the next two are their own: every network has its first weights
    with modules_of(folder / "style-based-gan-pytorch"):
        from model import StyledGenerator

        theirs = StyledGenerator().eval()
    pair = Twins("stylegan_generator", options={"size": 256})
    noise = [torch.randn(1, 1, 4 * 2**i, 4 * 2**i) for i in range(7)]
    other = eager(functools.partial(theirs, noise=noise, step=6), z)
    yield pair.part(
        "stylegan_generator: an image of 256x256",
        forward,
        pair.inputs,
        other=other,
        package="style-based-gan-pytorch",
    )

    with modules_of(folder / "pytorch_GAN_zoo"):
        from models.networks.progressive_conv_net import GNet

        theirs = GNet(512, 512).eval()
        for channels in (512, 512, 512, 256, 128, 64):
            theirs.addScale(channels)
    pair = Twins("pggan_generator", options={"size": 256})
    yield pair.part(
        "pggan_generator: an image of 256x256", forward, pair.inputs, other=eager(theirs, z), package="pytorch_GAN_zoo"
    )


GROUPS = (published_faces, published_descriptors, published_trackers, published_generators)
