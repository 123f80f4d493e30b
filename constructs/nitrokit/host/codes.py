"""What nitro-cli's and the allocator's error codes mean on a parent instance, and the remedy.

Sources: Nitro Enclaves User Guide "Nitro CLI error codes"; aws-nitro-enclaves-cli:src/common/document_errors.rs, bootstrap/nitro-enclaves-allocator.
"""

from __future__ import annotations

import re
from typing import Optional, Tuple

_LOG = "look at /var/log/nitro_enclaves/nitro_enclaves.log"
_UPDATE = "the agent and this nitro-cli disagree on the command line: update aws-nitro-enclaves-cli"
_PROCESS = "the enclave's process and nitro-cli lost each other: run the enclave again; " + _LOG
_CONSOLE = "only a debug-mode enclave has a console, and while it runs"
_DOCKER = "start docker, check the image's URI and the role's ecr permissions; or deploy an image that was built by `nitrokit build`"

NITRO_CLI = {
    "E00": ("unspecified", _LOG),
    "E01": ("an argument is missing", _UPDATE),
    "E02": ("arguments conflict", _UPDATE),
    "E03": ("an argument is not valid", _UPDATE),
    "E04": ("no socket pair for the enclave's process", "raise the limit of open files; " + _LOG),
    "E05": ("the enclave's process could not be started", "check free memory and the limit of processes; CIDs 0 to 3 are reserved"),
    "E06": ("the enclave's process could not go to the background", "check free memory and the limit of processes"),
    "E07": ("the folder of enclave sockets cannot be read", "/run/nitro_enclaves must exist and belong to group ne: install aws-nitro-enclaves-cli again"),
    "E08": ("a connection to an enclave is not usable", _PROCESS),
    "E09": ("a connection to an enclave could not be closed", _PROCESS),
    "E10": ("connecting took too long", _CONSOLE),
    "E11": ("the enclave has ended meanwhile, or its process does not answer", _LOG),
    "E12": ("epoll failed", "raise the limit of open files; " + _LOG),
    "E13": ("inotify failed", "raise fs.inotify.max_user_instances; " + _LOG),
    "E14": ("the enclave's process got a command that it does not know", "end enclaves that an older nitro-cli started, then run them again"),
    "E15": ("another nitro-cli is at work", "try again in a few seconds"),
    "E16": ("a thread did not end", _PROCESS),
    "E17": ("the enclave's process talks otherwise than nitro-cli", "end enclaves that an older nitro-cli started, then run them again"),
    "E18": ("the log file belongs to somebody else", "run nitro-cli as root: chown root:ne /var/log/nitro_enclaves/nitro_enclaves.log"),
    "E19": ("a file or the device is missing", "launch the instance with EnclaveOptions, and let the allocate step run first"),
    "E20": ("not a possible set of CPUs", "ask for whole cores: an even cpu_count on processors with two threads a core"),
    "E21": ("a CPU that was asked for is not in the pool", "use cpu_count, and let the allocate step run"),
    "E22": ("the pool has too few CPUs", "raise the pool's cpu_count (allocate step), or end another enclave"),
    "E23": ("a CPU id is not a number", "CPU ids are numbers of the pool's CPUs"),
    "E24": ("the list of CPUs is damaged", "look at /sys/module/nitro_enclaves/parameters/ne_cpus: the pool must be whole cores of one NUMA node"),
    "E25": ("no huge pages of a known size", "use Amazon Linux's kernel: it offers 2 MiB and 1 GiB pages"),
    "E26": ("too little memory for the image", "give the enclave at least four times its image's size"),
    "E27": ("the pool has too little memory", "raise the pool's memory (allocate step), or end another enclave; with 1 GiB pages a small enclave takes a whole one"),
    "E28": ("the driver gave no enclave", "launch the instance with EnclaveOptions; at most four enclaves run on a parent"),
    "E29": ("the driver refused", "the previous enclave's resources may still be draining: try again in a few seconds"),
    "E30": ("the driver does not say where the image goes", "update nitro-cli and the kernel: they disagree on where an image is loaded"),
    "E31": ("the driver refused the memory", "the pool's memory must lie on one NUMA node, in huge pages: reboot, and let the allocate step run"),
    "E32": ("the driver refused a CPU", "the pool's CPUs must lie on one NUMA node: let the allocate step run again"),
    "E33": ("the driver refused to start", "the image's architecture must be the instance's; memory and CPUs within the pool"),
    "E34": ("the image does not fit its memory", "ask for less memory than the pool has, and four times the image at least"),
    "E35": ("the image could not be read into memory", "fetch the image again; if it is whole, look at the huge pages of the pool"),
    "E36": ("the enclave did not boot", "look at the enclave's console in debug mode; only one launch at a time can succeed"),
    "E37": ("the enclave ended during its boot", "look at its console in debug mode"),
    "E38": ("an enclave does not describe itself", _PROCESS),
    "E39": ("the enclave's process does not answer", "another launch may be under way, or the image is signed by an expired certificate"),
    "E40": ("the enclave's process has gone", "run it again"),
    "E41": ("the enclave's process could not answer", _PROCESS),
    "E42": ("the memory could not be mapped", "the pool's huge pages are gone or in use: let the allocate step run again"),
    "E43": ("the memory could not be unmapped", "reboot the instance when it comes again; " + _LOG),
    "E44": ("no console", _CONSOLE),
    "E45": ("the console cannot be read", _CONSOLE),
    "E46": ("the console's output cannot be written", "check the disk's free space"),
    "E47": ("not a number", _UPDATE),
    "E48": ("the image could not be built", _DOCKER),
    "E49": ("docker could not build the image", _DOCKER),
    "E50": ("docker could not pull the image", _DOCKER),
    "E51": ("no folder to build in", "set NITRO_CLI_ARTIFACTS, or HOME"),
    "E52": ("no kernel and init to build with", "install aws-nitro-enclaves-cli-devel, or set NITRO_CLI_BLOBS"),
    "E53": ("the clock is wrong", "set the instance's clock (chronyd)"),
    "E54": ("signals could not be masked", _PROCESS),
    "E55": ("signals could not be unmasked", _PROCESS),
    "E56": ("nitro-cli cannot write its log", "check the disk's free space and /var/log/nitro_enclaves"),
    "E57": ("a digest could not be computed", "fetch the image again"),
    "E58": ("the name is taken or not a name", "an enclave's name is letters, digits, - and _; or an enclave of that name runs already"),
    "E59": ("the image's signature does not hold", "sign the image again: its certificate is not valid now"),
    "E60": ("the image could not be signed", "look at the signing key's permissions and the certificate's key type (P-384)"),
}  # fmt: skip
"""Code → cause, remedy."""

_SMALLER = "take a larger instance type, or ask for less: what the parent itself uses cannot be reserved"
_ALLOCATOR = (
    (200, "No CPUs are off-line", "no CPU is in the pool", "launch the instance with EnclaveOptions, and leave the parent a core"),
    (201, "Failed to find NUMA node", "a CPU of the pool has no NUMA node", "use Amazon Linux's kernel; reboot"),
    (
        202,
        "Invalid NUMA node",
        "the pool's CPUs lie on several NUMA nodes",
        "ask for no more CPUs than one NUMA node has beside CPU 0's core",
    ),
    (203, "Failed to clear huge page", "huge pages are in use", "end what uses huge pages on the parent (enclaves, databases), or reboot"),
    (204, "Failed to set a number of huge pages", "huge pages cannot be reserved", _SMALLER),
    (205, "Failed to roll back", "the former huge pages did not come back", "reboot the instance: the pool is reserved anew at boot"),
    (
        206,
        "Failed to configure entire amount",
        "not enough free memory for the pool",
        _SMALLER + "; memory in pieces is whole again after a reboot",
    ),
    (
        None,
        "at least one enclave currently running",
        "an enclave runs that the agent does not know",
        "end it: `nitro-cli describe-enclaves`",
    ),
    (None, "CPU pool file is missing", "the Nitro Enclaves driver is not there", "launch the instance with EnclaveOptions"),
)


def nitro_cli_code(text: str) -> Optional[Tuple[str, str, str]]:
    """The first ``[ Exx ]`` of nitro-cli's stderr: code, cause, remedy. None where there is none."""
    found = re.search(r"\[ (E\d\d) \]", text)
    if found is None:
        return None
    cause, remedy = NITRO_CLI.get(
        found.group(1), ("not known to this agent", f"`nitro-cli explain --error-code {found.group(1)}` says more")
    )
    return found.group(1), cause, remedy


def allocator_code(journal: str) -> Optional[Tuple[Optional[int], str, str]]:
    """The allocator's last error in its journal: its internal code (it prints the text alone), cause, remedy."""
    places = [(journal.rfind(text), code, cause, remedy) for code, text, cause, remedy in _ALLOCATOR]
    place, code, cause, remedy = max(places, key=lambda one: one[0])
    return None if place < 0 else (code, cause, remedy)
