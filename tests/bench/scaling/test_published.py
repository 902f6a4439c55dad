"""The scaling model compared with published measurements.

Three numbers are in no paper, and are the same for all curves: 75 % of a link's nominal rate arrives, a step's time
varies by 2 %, and GPUs on one PCIe bus exchange 10 GB/s.
"""

from __future__ import annotations

import pytest

from dualnet import models
from dualnet.bench.scaling import Links, Work, plan, work_of

MARGIN = 0.10
"""How far the model may be off, as an efficiency: 10 points. For VGG-16 in one machine it is off by 9."""
ARRIVES, VARIATION, PCIE, NVLINK = 0.75, 0.02, 10e9, 40e9
FUSED = 64e6  # bytes of Horovod's fusion buffer


def evenly(parameters: int) -> tuple[tuple[int, int], ...]:
    """A deep network whose layers are much alike."""
    return ((parameters // 100, 1),) * 100


def vgg16() -> tuple[tuple[int, int], ...]:
    """Simonyan and Zisserman (2015), column D, on 224 × 224: nine tenths of the parameters are in the dense layers."""
    layers, channels, size = [], 3, 224
    for filters, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(times):
            layers.append(((9 * channels + 1) * filters, 9 * channels * filters * size * size))
            channels = filters
        size //= 2
    for inputs, outputs in ((25088, 4096), (4096, 4096), (4096, 1000)):
        layers.append(((inputs + 1) * outputs, inputs * outputs))
    return tuple(layers)


def test_vgg16_is_the_one_of_the_paper():
    assert sum(parameters for parameters, _ in vgg16()) == 138_357_544


NETS = {
    "Inception V3": (evenly(23_834_568), 134.4),
    "ResNet-101": (evenly(44_549_160), 119.4),
    "VGG-16": (vgg16(), 130.9),
}
"""Layers, and images per second of one P100 with a batch of 64 (Horovod's README of 2017)."""
HOROVOD = [
    # Sergeev and Del Balso, "Horovod: fast and easy distributed deep learning in TensorFlow" (2018), and the READMEs of
    # their repository: servers with 4 P100 each, RoCE of 25 Gbit/s, batch 64, NCCL's ring over RDMA. 16 GPUs: images
    # per second over those of one; 128 and 512 GPUs: the efficiencies that they print.
    ("Inception V3", 16, 2022.6 / (16 * 134.4)),
    ("Inception V3", 128, 0.90),
    ("Inception V3", 512, 0.90),
    ("ResNet-101", 16, 1746.2 / (16 * 119.4)),
    ("ResNet-101", 128, 0.90),
    ("ResNet-101", 512, 0.90),
    ("VGG-16", 16, 1787.4 / (16 * 130.9)),
    ("VGG-16", 128, 0.79),
    ("VGG-16", 512, 0.68),
]


@pytest.mark.parametrize(("net", "gpus", "published"), HOROVOD)
def test_horovod(net, gpus, published):
    layers, rate = NETS[net]
    work = Work(net, layers, 1 / rate, bucket=FUSED, variation=VARIATION)
    links = Links(bandwidth=ARRIVES * 25e9 / 8, per_node=4, inner_bandwidth=PCIE)
    found = plan(work, ranks=gpus, batch=64, links=links, reduction="ring").efficiency
    assert abs(found - published) < MARGIN, f"{found:.3f}"


def test_imagenet_in_one_hour():
    """Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour" (2017): about 90 % from 8 to 256 GPUs.

    ResNet-50 with 32 images on each P100, 8 in a server with NVLink, Ethernet of 50 Gbit/s; sums inside a server, then
    halving and doubling between servers. A P100 makes 195 images per second (TensorFlow's benchmarks, 2017).
    """
    net = models.resnet50(classes=1000)
    table = net.summary((224, 224, 3))
    work = Work(
        "ResNet-50", tuple((row.parameters, row.multiply_adds) for row in table.rows), 1 / 195, variation=VARIATION
    )
    assert abs(work.parameters - 25.5e6) < 0.1e6
    links = Links(bandwidth=ARRIVES * 50e9 / 8, per_node=8, inner_bandwidth=NVLINK)
    found = plan(work, ranks=256, batch=32, links=links, reduction="hierarchical")
    from_8 = found.efficiency / found.efficiencies[3]
    assert found.steps[3].ranks == 8 and abs(from_8 - 0.90) < MARGIN, f"{from_8:.3f}"


@pytest.mark.parametrize(
    ("layers", "rate", "published"),
    [
        (NETS["Inception V3"][0], 142, 1131 / (8 * 142)),
        (evenly(25_557_032), 219, 1734 / (8 * 219)),
        (vgg16(), 154, 1081 / (8 * 154)),
    ],
    ids=["Inception V3", "ResNet-50", "VGG-16"],
)
def test_tensorflow_on_one_machine(layers, rate, published):
    """TensorFlow's benchmarks of May 2017: images per second of 1 and 8 P100 in one DGX-1, synthetic data, batch 64."""
    links = Links(per_node=8, inner_bandwidth=PCIE)
    found = plan(Work("net", layers, 1 / rate, variation=VARIATION), ranks=8, batch=64, links=links).efficiency
    assert abs(found - published) < MARGIN, f"{found:.3f}"


def test_the_order_of_the_published_networks_is_the_models_order():
    """VGG-16 has most bytes for its compute, and loses most."""
    links = Links(bandwidth=ARRIVES * 25e9 / 8, per_node=4, inner_bandwidth=PCIE)
    found = {
        net: plan(Work(net, layers, 1 / rate, variation=VARIATION), ranks=512, batch=64, links=links, reduction="ring")
        for net, (layers, rate) in NETS.items()
    }
    assert found["VGG-16"].efficiency < found["ResNet-101"].efficiency < found["Inception V3"].efficiency
    assert found["VGG-16"].cause == "transfer" and found["Inception V3"].cause == "waiting"


def test_work_of_a_network_has_its_layers():
    net = models.resnet50(classes=1000)
    work = work_of(net.init((32, 32, 3)), per_image=1.0)
    assert work.parameters == sum(p.value.size for p in net.parameters().values())
