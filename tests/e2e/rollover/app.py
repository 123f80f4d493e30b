"""Two hosts, one image, one key that cdk deploy may change: what a rollover needs. The hosts are brought up one after the other."""

import aws_cdk as cdk

from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.enclave_image import EnclaveImage
from nitrokit.cdk.enclave_key import EnclaveKey
from nitrokit.cdk.enclave_network import EnclaveNetwork

app = cdk.App()
stack = cdk.Stack(app, "Rollover")
image = EnclaveImage.from_directory(stack, "Image", stack.node.get_context("image"))
network = EnclaveNetwork(stack, "Network")
hosts = [EnclaveHost(stack, f"Host{number}", network=network) for number in (1, 2)]
owner = stack.node.get_context("owner")
key = EnclaveKey(
    stack, "Key", images=[image], host_role=hosts[0].role, data_owners=[owner], sealed=False, administrator_arn=EnclaveKey.deployment_role_arn(stack)
)  # fmt: skip
key.grants.decrypt(hosts[1].role, image)
first, second = (EnclaveBootstrap(stack, f"Bootstrap{number}", parent=host, image=image) for number, host in enumerate(hosts, 1))
# The key first, so that it accepts both images; then one host after the other.
first.node.add_dependency(key)
second.node.add_dependency(first)
cdk.CfnOutput(stack, "KeyArn", value=key.key_arn)
for number, host in enumerate(hosts, 1):
    cdk.CfnOutput(stack, f"Instance{number}", value=host.instance_id)
app.synth()
