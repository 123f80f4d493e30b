"""What the gate can find: stable ids, what each means, who can mend it and how. Explained in docs/gate.md."""

from __future__ import annotations

from dataclasses import dataclass

PLATFORM, IMAGE, KEYS, HOST, SECURITY = "platform team", "image's maintainer", "key's administrator", "host's operator", "security team"


@dataclass(frozen=True)
class Rule:
    """One kind of finding. ``who``: who can mend it; ``fix``: how."""

    id: str
    title: str
    who: str
    fix: str


_ALL = (
    Rule("agrees", "as locked", "", ""),
    Rule("planned-rollover", "a planned rollover is under way", PLATFORM, "deploy the current set everywhere, then `nitrokit lock --retire`"),
    Rule("unreachable", "asked for, and not reachable", PLATFORM, "make it reachable, or do not ask for it: what was not compared is no pass"),
    Rule("lock-torn", "measurements.json and image.lock.json are not of one build", IMAGE, "run `nitrokit lock --measurements-only`, and have the lock reviewed"),
    Rule("set-past-date", "a set is still accepted after its retirement date", PLATFORM, "`nitrokit lock --retire`, and deploy; or have a later date reviewed"),
    Rule("rebuild-differs", "the source does not build what is locked", IMAGE,
         "find out what changed; if it is meant, run `nitrokit lock` and have the new lock reviewed"),
    Rule("unknown-set", "accepts or runs an image that no lock knows", SECURITY,
         "find out where it comes from; if it is meant, lock it; if it is another image of this stack, name its folder to the gate too"),
    Rule("current-missing", "does not accept the current set of an image that it is for", PLATFORM, "synthesise and deploy anew from the committed lock"),
    Rule("absent", "nothing accepts the locked image", PLATFORM, "synthesise or deploy the stack that uses it, or leave the image out"),
    Rule("policy-form", "attested statements that the gate cannot read as sets of measurements", KEYS, "write one statement for each set, as EnclaveKey does"),
    Rule("policy-finding", "the key policy lets data be opened without the attestation of an accepted image", KEYS, "mend the policy as the finding says"),
    Rule("policy-edited", "the deployed key policy is not the one synthesised", KEYS, "deploy the stack again, and find in CloudTrail who changed it (PutKeyPolicy)"),
    Rule("grant", "a grant on the key could open data; no grant can demand attestation", KEYS, "revoke the grant, and find in CloudTrail who made it (CreateGrant)"),
    Rule("alias-moved", "an alias leads to another key", KEYS, "point the alias back, and find in CloudTrail who moved it (UpdateAlias)"),
    Rule("key-state", "the key is not usable", KEYS, "enable the key or cancel its deletion, and find in CloudTrail who did it"),
    Rule("host-image", "the host holds or configures another image", HOST, "run the host's bootstrap again; if it stays, take the host out and look at it"),
    Rule("debug-enclave", "a debug-mode enclave: its parent reads its memory", HOST, "end it and run the bootstrap again; find out who started it"),
    Rule("replayed", "a document made for another nonce: it is old, or somebody else's", SECURITY, "take the host out and look at it: it does not answer for its enclave"),
    Rule("stale", "a document from another time", SECURITY, "set this machine's clock; if it is right, take the host out and look at it"),
    Rule("wrong-parent", "the enclave runs on another instance, or under another role", SECURITY, "take the host out and look at it: it answers with another host's enclave"),
    Rule("wrong-place", "the enclave runs in another Region, or is another one", SECURITY, "take the host out and look at it: it answers with another enclave"),
    Rule("not-authentic", "no authentic document of an enclave", SECURITY, "take the host out and look at it: nothing that it says is proven"),
)  # fmt: skip
RULES = {rule.id: rule for rule in _ALL}
