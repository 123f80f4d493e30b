"""Sizing, over EC2's own table of types."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nitrokit.core.sizing import Catalogue, EnclaveNeeds, InstanceType, SizingError, allocate, catalogue_from_ec2, choose, parse_catalogue

TABLE = Path(__file__).parents[3] / "constructs/nitrokit/cdk/instance_types.json"
CATALOGUE = parse_catalogue(TABLE.read_text())
KINDS = sorted(CATALOGUE.types.values(), key=lambda one: one.name)

counts = st.integers(1, 100)
sizes = st.integers(32, 200_000).map(lambda pages: 2 * pages)


def needs(arch="x86_64"):
    return st.lists(st.builds(EnclaveNeeds, st.just("one"), st.just(arch), counts, sizes), min_size=1, max_size=4)


def _one(cpus=2, memory=300, arch="x86_64", name="hello"):
    return EnclaveNeeds(name, arch, cpus, memory)


@given(st.sampled_from(KINDS), st.data())
def test_what_is_allocated_obeys_the_platforms_rules(kind, data):
    wanted = data.draw(needs(kind.arch))
    try:
        planned = allocate(kind, wanted)
    except SizingError as error:
        assert error.slug in ("cpus", "pool-memory")
        return
    assert planned.cpu_count % kind.threads_per_core == 0
    assert all(got.cpu_count >= asked.cpu_count for got, asked in zip(planned.enclaves, wanted, strict=True))
    assert all(one.cpu_count % kind.threads_per_core == 0 for one in planned.enclaves)
    assert planned.cpu_count == sum(one.cpu_count for one in planned.enclaves)
    assert planned.memory_mib >= sum(one.memory_mib for one in wanted)
    assert planned.memory_mib <= kind.memory_mib // kind.nodes
    assert planned.cpu_count <= kind.vcpus // kind.nodes
    assert planned.parent_vcpus >= kind.threads_per_core
    assert planned.parent_memory_mib >= 1024


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(("x86_64", "aarch64")), st.data())
def test_the_chosen_type_fits_and_none_of_the_plain_ones_is_smaller(arch, data):
    wanted = data.draw(needs(arch))
    try:
        chosen = choose(wanted, CATALOGUE)
    except SizingError as error:
        assert error.slug == "no-type"
        assert not [kind for kind in KINDS if _fits(kind, wanted)]
        return
    assert allocate(chosen.instance_type, wanted) == chosen
    plain = [
        kind for kind in KINDS if kind.family in ("c6i", "m6i", "r6i", "c6a", "m7a", "r8g", "c6g", "m7g", "c7i") and _fits(kind, wanted)
    ]
    size = (chosen.instance_type.vcpus, chosen.instance_type.memory_mib)
    assert all(size <= (kind.vcpus, kind.memory_mib) for kind in plain)


def _fits(kind, wanted):
    try:
        return bool(allocate(kind, wanted))
    except SizingError:
        return False


@given(st.sampled_from(KINDS), st.data())
def test_more_is_never_easier(kind, data):
    wanted = data.draw(needs(kind.arch))
    more = [replace(wanted[0], cpu_count=wanted[0].cpu_count + 2, memory_mib=wanted[0].memory_mib + 64), *wanted[1:]]
    assert _fits(kind, wanted) or not _fits(kind, more)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (_one(), "c6i.xlarge"),
        (_one(1, 64), "c8a.large"),
        (_one(2, 8000), "m6i.xlarge"),
        (_one(1, 300, "aarch64"), "c6g.large"),
        (_one(2, 300, "aarch64"), "c6g.xlarge"),
        (_one(2, 700_000), "r8i.24xlarge"),
        (_one(100, 1000, "aarch64"), None),
        (_one(2, 1_400_000), "x2iezn.12xlarge"),
    ],
)
def test_what_is_chosen(wanted, name):
    if name is None:
        with pytest.raises(SizingError, match="spread them"):
            choose([wanted], CATALOGUE)
    else:
        assert choose([wanted], CATALOGUE).instance_type.name == name


@pytest.mark.parametrize(
    ("kind", "wanted", "slug", "words"),
    [
        ("m6i.xlarge", [_one(4)], "cpus", ("4 of 4 vCPUs", "at most 2", "take m6i.2xlarge")),
        ("m6i.xlarge", [_one(), _one(1)], "cpus", ("take m6i.2xlarge",)),
        ("c6i.xlarge", [_one(2, 7000)], "pool-memory", ("7000 of 8192 MiB", "at most 6912", "take c6i.2xlarge")),
        ("m6i.32xlarge", [_one(70)], "cpus", ("at most 64", "one of 2 NUMA nodes")),
        ("m7g.xlarge", [_one()], "arch", ("images for x86_64, an instance of aarch64", "take c6i.xlarge")),
        ("m6i.xlarge", [_one()] * 5, "enclaves", ("got: 5", "1 to 4")),
        ("m6i.xlarge", [], "enclaves", ("got: 0",)),
        ("m6i.xlarge", [_one(), _one(arch="aarch64", name="other")], "mixed-arch", ("hello: x86_64, other: aarch64",)),
        ("m6i.xlarge", [_one(10_000)], "cpus", ("spread the enclaves",)),
    ],
)
def test_a_refusal_says_why_and_what_fits(kind, wanted, slug, words):
    with pytest.raises(SizingError) as caught:
        allocate(CATALOGUE.types[kind], wanted, CATALOGUE)
    assert caught.value.slug == slug
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_known_topology_counts():
    kind = CATALOGUE.types["m6i.24xlarge"]
    assert kind.nodes == 2
    assert not _fits(kind, [_one(60)])
    assert allocate(replace(kind, numa_nodes=1), [_one(60)]).parent_vcpus == 36


def test_an_empty_catalogue_has_nothing_to_offer():
    with pytest.raises(SizingError, match="a known type"):
        choose([_one()], Catalogue({}, frozenset(), ""))


@pytest.mark.parametrize(
    ("name", "words"), [("t3.large", "another family"), ("m6i.metal", "m6i.xlarge or a larger one"), ("m6i.large", "m6i.xlarge")]
)
def test_a_type_without_enclaves_is_refused(name, words):
    with pytest.raises(SizingError) as caught:
        CATALOGUE.find(name)
    assert (caught.value.slug, words in str(caught.value)) == ("unsupported-type", True)


def test_types_known_and_unknown():
    assert CATALOGUE.find("m6i.xlarge") == InstanceType("m6i.xlarge", "x86_64", 4, 2, 16384)
    assert CATALOGUE.find("m99.xlarge") is None
    assert InstanceType("u-x.large", "x86_64", 96, 2, 1024).nodes == 2


def test_the_table_is_written_as_it_is_read():
    assert parse_catalogue(CATALOGUE.to_json()) == CATALOGUE
    assert CATALOGUE.to_json() == TABLE.read_text()


def _described(name="m6i.xlarge", support="supported", **changes):
    processor = {"SupportedArchitectures": ["i386", "x86_64"]}
    return {
        "InstanceType": name,
        "NitroEnclavesSupport": support,
        "ProcessorInfo": processor,
        "VCpuInfo": {"DefaultVCpus": 4, "DefaultThreadsPerCore": 2},
        "MemoryInfo": {"SizeInMiB": 16384},
    } | changes


def test_ec2s_answer_becomes_the_table():
    read = catalogue_from_ec2([_described(), _described("m6i.metal", "unsupported"), _described("t3.large", "unsupported")], "a test")
    assert read == Catalogue({"m6i.xlarge": InstanceType("m6i.xlarge", "x86_64", 4, 2, 16384)}, frozenset({"t3"}), "a test")


@pytest.mark.parametrize("change", [{"ProcessorInfo": {"SupportedArchitectures": ["riscv"]}}, {"VCpuInfo": None}, {"MemoryInfo": {}}])
def test_another_answer_is_an_error(change):
    with pytest.raises(SizingError) as caught:
        catalogue_from_ec2([_described(**change)], "a test")
    assert caught.value.code == "sizing/ec2-types"


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"source": "", "without": [], "types": {"a": [1]}}), "[" * 100_000])
def test_a_damaged_table_is_an_error(text):
    with pytest.raises(SizingError) as caught:
        parse_catalogue(text)
    assert caught.value.code == "sizing/catalogue"
