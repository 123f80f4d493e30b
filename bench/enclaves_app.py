"""An app of as many enclaves as its argument says, four to a host, on one network: what a further one costs to synthesise."""

import sys
import tempfile
from pathlib import Path

import aws_cdk as cdk

from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_network import EnclaveNetwork
from nitrokit.core.eif import read_eif, write_eif

app = cdk.App()
stack = cdk.Stack(app, "Enclaves")
network = EnclaveNetwork(stack, "Network")
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "small.eif"
    with path.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"app"], metadata={})
    measurements = read_eif(path.read_bytes()).measurements
    for number in range(int(sys.argv[1])):
        if number % 4 == 0:
            host = EnclaveHost(stack, f"Host{number // 4}", network=network)
        image = EnclaveImage.from_eif(stack, f"Image{number}", path, name=f"enclave-{number}", measurements=measurements)
        EnclaveBootstrap(stack, f"Run{number}", parent=host, image=image)
    app.synth()
