"""Whoever accepts measurements (a key policy, a host's configuration, a Lambda): is what it accepts what the locks accept?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from nitrokit.gate.locks import LockedImage, Pcrs, Placed, Standing, differences, place
from nitrokit.gate.report import Comparison, Place


def compare_accepted(
    where: Place, subject: str, accepted: Sequence[Pcrs], images: Sequence[LockedImage], time: datetime, *, path: str | None = None
) -> Comparison:
    """One comparison of all the sets that a consumer accepts. The worst decides: a set no lock knows, one past its date, a missing current one, a rollover, agreement."""
    placed = [place(pcrs, images, time) for pcrs in accepted]
    concerned = [image for image in images if any(one.image is image for one in placed)]
    name = ", ".join(image.name for image in concerned) or None
    rule, reason, details, until = _judge(placed, concerned, images)
    return Comparison(where, subject, rule, reason, name, details, path, until)


_Judgement = tuple[str, str, tuple[str, ...], datetime | None]


def _judge(placed: Sequence[Placed], concerned: Sequence[LockedImage], images: Sequence[LockedImage]) -> _Judgement:
    by = {standing: [one for one in placed if one.standing is standing] for standing in Standing}
    if unknown := by[Standing.UNKNOWN]:
        details = tuple(line for one in unknown for line in (str(one), *differences(one.pcrs, images)))
        return "unknown-set", f"accepts {len(unknown)} set(s) of measurements that no lock knows", details, None
    if past := by[Standing.PAST]:
        return "set-past-date", "still accepts a set whose retirement date has passed", tuple(map(str, past)), past[0].until
    missing = [image for image in concerned if not any(one.image is image for one in by[Standing.CURRENT])]
    until = max((one.until for one in by[Standing.RETIRING] if one.until), default=None)
    if missing and until:
        reason = f"accepts only what retires of {_names(missing)}: the current set is locked and not yet here"
        return "planned-rollover", reason, tuple(map(str, placed)), until
    if until:
        return "planned-rollover", "accepts the current set, and until its date one that retires", tuple(map(str, placed)), until
    return "agrees", f"accepts the current set of {_names(concerned)} alone", (), None


def _names(images: Sequence[LockedImage]) -> str:
    return " and ".join(image.name for image in images)
