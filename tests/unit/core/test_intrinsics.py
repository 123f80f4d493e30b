"""Policies out of templates: every intrinsic function becomes something that can be reasoned about."""

import json

import pytest

from nitrokit.core.intrinsics import Environment, alternatives, concrete, is_known, longest, resolve

HERE = Environment("111122223333", "aws-cn", "cn-north-1")
OPAQUE = "arn:aws-cn:iam::111122223333:role/"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "x"), (True, True), ({"Ref": "AWS::AccountId"}, "111122223333"), ({"Ref": "AWS::Partition"}, "aws-cn"), ({"Ref": "AWS::Region"}, "cn-north-1"), ({"Ref": "Admin"}, OPAQUE + "Admin"),
        ({"Fn::GetAtt": ["Role", "Arn"]}, OPAQUE + "Role"), ({"Fn::GetAtt": "Role.Arn"}, OPAQUE + "Role"), ({"Fn::GetAtt": ["Role", "RoleId"]}, OPAQUE + "Role.RoleId"),
        ({"Fn::Join": [":", ["arn", {"Ref": "AWS::Partition"}, {"Ref": "X"}]]}, "arn:aws-cn:" + OPAQUE + "X"), ({"Fn::Join": "odd"}, OPAQUE + "Fn--Join--odd-"),
        ({"Fn::Join": ["", [1, {"Fn::If": ["C", "a", "b"]}]]}, OPAQUE + "1" + OPAQUE + "--a-,--b--"), ({"Fn::Select": [0, "<a>"]}, OPAQUE + "Fn--Select--0,---a---"),
        ({"Fn::Sub": "arn:${AWS::Partition}:${!Literal}:${Role.Arn}"}, "arn:aws-cn:${Literal}:" + OPAQUE + "Role"), ({"Fn::Sub": ["${A}", "odd"]}, OPAQUE + "A"),
        ({"Fn::Sub": ["${Own}-${AWS::Region}", {"Own": {"Ref": "AWS::AccountId"}}]}, "111122223333-cn-north-1"), ({"Fn::ImportValue": "Other:Export"}, OPAQUE + "import-Other-Export"),
        ({"Fn::If": ["C", "a", {"Ref": "AWS::NoValue"}]}, ["a"]), (["x", {"Fn::If": ["C", "a", ["b", "c"]]}, {"Ref": "AWS::NoValue"}], ["x", "a", "b", "c"]),
        ({"Fn::If": "odd"}, OPAQUE + "Fn--If--odd-"), ({"A": {"Ref": "AWS::NoValue"}, "B": 1}, {"B": 1}), ({"Effect": "Allow"}, {"Effect": "Allow"}),
    ],
)  # fmt: skip
def test_functions(value, expected):
    assert concrete(value, HERE) == expected


def test_a_measurement_that_is_known_at_deployment_alone_equals_itself_and_nothing_else():
    condition = {
        "StringEquals": {
            "kms:RecipientAttestation:PCR3": [{"Fn::GetAtt": [name, "Pcr3"]} for name in ("A", "B", "A")],
            "aws:PrincipalArn": {"Ref": "R"},
        }
    }
    found = concrete(condition, HERE)["StringEquals"]
    one, other, same = found["kms:RecipientAttestation:PCR3"]
    assert (len(one), one == same, one == other) == (96, True, False)
    assert found["aws:PrincipalArn"] == OPAQUE + "R"


def test_the_longest_form_is_longer_than_any_that_is_deployed():
    value = {"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, {"Fn::GetAtt": ["Role", "Arn"]}]]}
    assert (
        len(json.dumps(longest(value)))
        > len(json.dumps("arn:aws-us-gov" + "arn:aws-us-gov:iam::123456789012:role/" + "p" * 512 + "n" * 64)) - 2
    )


def test_functions_resolve_as_cloudformation_does():
    names = {"A": "a", "B.Arn": "arn:b", "AWS::Partition": "aws", "import:X:Y": "y"}.get
    value = {"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, ":", {"Fn::GetAtt": ["B", "Arn"]}, {"Fn::ImportValue": "X:Y"}]]}
    assert resolve(value, names) == "arn:aws:arn:by"
    assert resolve({"Fn::Sub": "${A}-${!A}-${B.Arn}"}, names) == "a-${A}-arn:b"
    assert resolve({"Fn::Sub": ["${C}${A}", {"C": {"Ref": "A"}}]}, names) == "aa"
    for unknown in (
        {"Ref": "Z"},
        {"Fn::GetAtt": "Z.Arn"},
        {"Fn::If": ["C", 1, 2]},
        {"Fn::Join": 3},
        {"Fn::Sub": "${Z}"},
        {"Fn::ImportValue": "Z"},
    ):
        assert not is_known(resolve([unknown], names)), unknown
    assert is_known(resolve([value, {"plain": "<b>text</b>"}, 1], names))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", [((), "x")]),
        ({"Fn::If": ["A", 1, {"Ref": "AWS::NoValue"}]}, [(("A",), 1), (("not A",), {"Ref": "AWS::NoValue"})]),
        ([{"Fn::If": ["A", 1, 2]}, {"k": {"Fn::If": ["A", 3, 4]}}], [(("A",), [1, {"k": 3}]), (("not A",), [2, {"k": 4}])]),
        ({"Fn::If": ["A", {"Fn::If": ["B", 1, 2]}, 3]}, [(("A", "B"), 1), (("A", "not B"), 2), (("not A",), 3)]),
        ({"Fn::If": ["A", {"Fn::If": ["A", 1, 2]}, 3]}, [(("A",), 1), (("not A",), 3)]),
        ({"Fn::If": "odd"}, [((), {"Fn::If": "odd"})]),
        ({"Fn::If": [1, 2, 3]}, [((), {"Fn::If": [1, 2, 3]})]),
    ],
)
def test_each_outcome_of_conditions_by_itself(value, expected):
    assert list(alternatives(value)) == expected
