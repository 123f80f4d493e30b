"""Templates as the CDK really synthesises them, and edited by hand afterwards."""

import json
from pathlib import Path

import pytest

from nitrokit.gate.templates import compare_templates, sets_in

from .conftest import FOREIGN, NEW, NOW, OLD, locked, rules

ROOT = Path(__file__).parents[3]
KINDS = {"AWS::KMS::Key", "AWS::SSM::Association", "AWS::SSM::Document", "AWS::SSM::Parameter"}
"""What of a deployment carries measurements: policy, configuration, the runbook that replaces an image, the monitor's settings."""


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    """cdk.out of a stack with a key, a host, its bootstrap and its monitor; and the lock of its image."""
    import aws_cdk as cdk

    from nitrokit.cdk.attestation_monitor import AttestationMonitor
    from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
    from nitrokit.cdk.enclave_host import EnclaveHost
    from nitrokit.cdk.enclave_image import EnclaveImage
    from nitrokit.cdk.enclave_key import EnclaveKey
    from nitrokit.core.eif import read_eif, write_eif

    folder = tmp_path_factory.mktemp("cdk")
    eif = folder / "small.eif"
    with eif.open("w+b") as file:
        write_eif(file, kernel=b"kernel", cmdline="c", ramdisks=[b"init", b"app"], metadata={"BuildMetadata": {}})
    measurements = read_eif(eif.read_bytes()).measurements
    app = cdk.App(outdir=str(folder / "cdk.out"), context=json.loads((ROOT / "cdk.json").read_text())["context"])
    stack = cdk.Stack(app, "S")
    image = EnclaveImage.from_eif(stack, "Image", eif, name="hello", measurements=measurements)
    host = EnclaveHost(stack, "Host")
    EnclaveKey(stack, "Key", images=[image], host_role=host.role)
    bootstrap = EnclaveBootstrap(stack, "Bootstrap", parent=host, image=image)
    AttestationMonitor(stack, "Monitor", bootstraps=[bootstrap])
    app.synth()
    return folder / "cdk.out", measurements


@pytest.fixture
def edited(assembly, tmp_path):
    """The assembly with its template changed by a function of the text."""

    def edit(change):
        template = assembly[0] / "S.template.json"
        (tmp_path / "S.template.json").write_text(json.dumps(change(json.loads(template.read_text()))))
        return tmp_path

    return edit


def test_key_configuration_and_lambda_all_agree(assembly):
    folder, measurements = assembly
    found = list(compare_templates(folder, [locked(measurements)], NOW))
    assert set(rules(found)) == {"agrees"}, [(one.subject, one.reason) for one in found]
    assert {one.subject.rsplit("(")[-1].rstrip(")") for one in found} == KINDS
    assert all(one.path and one.path.endswith("S.template.json") for one in found)


def test_an_image_locked_anew_and_not_synthesised_anew_is_told_at_each_place(assembly):
    folder, measurements = assembly
    assert rules(compare_templates(folder, [locked(NEW)], NOW)) == ["unknown-set"] * len(KINDS)
    planned = list(compare_templates(folder, [locked(NEW, (measurements, 5))], NOW))
    assert rules(planned) == ["planned-rollover"] * len(KINDS)
    assert rules(compare_templates(folder, [locked(NEW, (measurements, -5))], NOW)) == ["set-past-date"] * len(KINDS)


def test_another_pcr_in_one_place_is_found_there(assembly, edited):
    measurements = assembly[1]
    for kind in sorted(KINDS):

        def change(template, kind=kind):
            for resource in template["Resources"].values():
                if resource["Type"] == kind:
                    text = json.dumps(resource["Properties"])
                    for index, value in measurements.pcrs().items():
                        text = text.replace(value.hex(), FOREIGN.pcrs()[index].hex())
                    resource["Properties"] = json.loads(text)
            return template

        found = list(compare_templates(edited(change), [locked(measurements)], NOW))
        assert rules(found) == [*["agrees"] * (len(KINDS) - 1), "unknown-set"]
        assert kind in next(one.subject for one in found if one.rule_id == "unknown-set")


def test_a_hole_in_a_synthesised_policy_is_found(assembly, edited):
    def change(template):
        policy = next(one for one in template["Resources"].values() if one["Type"] == "AWS::KMS::Key")["Properties"]["KeyPolicy"]
        policy["Statement"] = [one for one in policy["Statement"] if one["Effect"] == "Allow"]
        policy["Statement"].append({"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:Decrypt", "Resource": "*"})
        return template

    assert "policy-finding" in rules(compare_templates(edited(change), [locked(assembly[1])], NOW))


def test_an_enclave_keys_policy_without_a_word_of_attestation_is_found(assembly, edited):
    def change(template):
        key = next(one for one in template["Resources"].values() if one["Type"] == "AWS::KMS::Key")
        key["Properties"]["KeyPolicy"] = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"}],
        }
        return template

    found = [one for one in compare_templates(edited(change), [locked(assembly[1])], NOW) if "KMS::Key" in one.subject]
    assert "policy-finding" in rules(found)


@pytest.mark.parametrize(
    ("conditional", "rule"),
    [
        (lambda policy: {"Fn::If": ["Production", policy, {"Ref": "AWS::NoValue"}]}, "policy-finding"),
        (lambda policy: {**policy, "Statement": [policy["Statement"][0], *({"Fn::If": [f"C{n}", one, {"Ref": "AWS::NoValue"}]} for n, one in enumerate(policy["Statement"] * 3))]}, "policy-form"),
        (lambda policy: {"Fn::If": ["Production", policy, policy]}, "agrees"),
    ],
)  # fmt: skip
def test_a_policy_under_a_condition_is_judged_as_each_outcome_makes_it(assembly, edited, conditional, rule):
    def change(template):
        key = next(one for one in template["Resources"].values() if one["Type"] == "AWS::KMS::Key")
        key["Properties"]["KeyPolicy"] = conditional(key["Properties"]["KeyPolicy"])
        return template

    found = [one for one in compare_templates(edited(change), [locked(assembly[1])], NOW) if "KMS::Key" in one.subject]
    assert rule in rules(found)
    assert [one for one in found if one.rule_id == "policy-finding"] == [
        one for one in found if "where not Production" in one.subject and rule != "agrees"
    ]


def test_an_image_that_nothing_names_is_drift(assembly):
    folder, measurements = assembly
    found = compare_templates(folder, [locked(measurements), locked(OLD, name="other")], NOW)
    assert rules(found) == ["absent", *["agrees"] * len(KINDS)]


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{", "[" * 100_000, '{"Resources": 3}', '{"Resources": {"A": 3, "B": {"Type": "AWS::KMS::Key"}}}']
)
def test_no_template_or_a_torn_one_is_no_pass(tmp_path, text):
    if text is not None:
        (tmp_path / "S.template.json").write_text(text)
    assert set(rules(compare_templates(tmp_path, [locked()], NOW))) <= {"unreachable", "absent"}


def test_measurements_are_found_wherever_they_stand():
    one = {f"PCR{index}": value.hex() for index, value in NEW.pcrs().items()}
    inside = json.dumps({"name": "hello", "deep": [json.dumps({"Measurements": {"HashAlgorithm": "x", **one}})]})
    assert list(sets_in({"a": [inside]})) == [("hello", NEW.pcrs())]
    assert list(sets_in([{"PCR0": NEW.pcr0.hex()}])) == [(None, {0: NEW.pcr0})], "PCR0 tells an image by itself"
    assert list(sets_in({"a": ['{"PCR0" no json', {"PCR0": "short"}, '"PCR0"']})) == []


def test_a_pcr3_that_the_deployment_measures_is_no_finding(assembly, edited):
    def prove_the_role(template):
        (key,) = (one for one in template["Resources"].values() if one["Type"] == "AWS::KMS::Key")
        attested = key["Properties"]["KeyPolicy"]["Statement"][0]["Condition"]["StringEqualsIgnoreCase"]
        attested["kms:RecipientAttestation:PCR3"] = {"Fn::GetAtt": ["Measured", "Pcr3"]}
        return template

    assert rules(compare_templates(edited(prove_the_role), [locked(assembly[1])], NOW)) == ["agrees"] * len(KINDS)
