"""The attestation report as a browser shows and prints it: no request, no script, and nothing that a host says becomes markup."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from datetime import datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from nitrokit.errors import UsageError
from nitrokit.gate.formats import render_json
from nitrokit.gate.page.chains import summarize
from nitrokit.gate.page.render import render_page
from nitrokit.gate.page.timeline import Span, draw
from nitrokit.gate.report import Comparison, GateReport, Place
from nitrokit.gate.rules import RULES

from .conftest import NEW, NOW, OLD, locked

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip


def _evidence(text="aws.nitro-enclaves"):
    certificate = {"subject": text, "not_before": NOW.isoformat(), "not_after": (NOW + timedelta(days=1)).isoformat(), "sha256": "ab" * 32}
    pcrs = {str(index): value.hex() for index, value in NEW.pcrs().items()}
    return {"module_id": text, "region": "eu-central-1", "timestamp": NOW.isoformat(), "pcrs": pcrs, "chain": [certificate]}


def _report(text="i-0123/hello"):
    rules = [Comparison(Place.HOST, text, rule, text, details=(text,) * 50) for rule in RULES]
    enclaves = [Comparison(Place.ENCLAVE, text, "agrees", text, evidence=_evidence(text)) for _ in range(3)]
    report = GateReport(NOW, {text: json.loads(locked(NEW, (OLD, 3)).values.to_json())}, (*rules, *enclaves))
    return json.loads("".join(render_json(report)))


def _spans(text="hello on i-0"):
    return [Span(text, NOW - timedelta(days=9), NOW, text, text), Span(text, NOW, NOW, None, text)]


def test_what_one_hand_mends_is_one_card_and_a_long_list_is_cut():
    silent = [Comparison(Place.ENCLAVE, f"hello on i-{number}", "unreachable", "no answer", "hello") for number in range(40)]
    edited = Comparison(Place.KEY, "key", "policy-edited", "run `x` & <b>", None)
    page = render_page(json.loads("".join(render_json(GateReport(NOW, {}, [*silent, edited])))), made=NOW)
    assert page.count('<section class="card') == 2
    assert page.index("policy is not the one synthesised") < page.index("40 times"), "the worst first"
    assert "28 more stand in the tables below" in page
    assert "<code>x</code> &amp; &lt;b&gt;" in page


def _chain(number):
    shared = [
        {"subject": f"CN={name}", "not_before": "2026-01-01", "not_after": "2027-01-01", "sha256": name} for name in ("root", "region")
    ]
    own = {
        "subject": f"CN=i-{number}",
        "not_before": f"2026-01-{number + 1:02}",
        "not_after": f"2026-02-{number + 1:02}",
        "sha256": f"leaf{number}",
    }
    return [*shared, own]


def test_shared_certificates_are_told_one_by_one_and_the_many_by_their_number():
    few, many = (summarize([_chain(number) for number in range(size)]) for size in (2, 20))
    assert [(one.title, one.sha256, one.enclaves) for one in few] == [
        ("root", "root", 2), ("Region", "region", 2), ("zone", "leaf0", 1), ("zone", "leaf1", 1),
    ]  # fmt: skip
    assert len(many) == 3
    assert (many[2].title, many[2].enclaves, many[2].sha256) == ("20 certificates: zone", 20, "")
    assert (many[2].not_before, many[2].not_after) == ("2026-01-20", "2026-02-01"), "the dates that hold for all"
    assert summarize([]) == []


def _luminance(colour):
    whole = colour if len(colour) == 7 else "#" + "".join(one * 2 for one in colour[1:])
    parts = [int(whole[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_can_be_read_by_day_and_by_night():
    """A contrast of 4.5 at least (W3C, WCAG 2.2, success criterion 1.4.3)."""
    style = render_page(_report(), made=NOW).split("</style>")[0]
    schemes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", block)) for block in re.findall(r":root \{([^}]*)\}", style)]
    assert len(schemes) == 2
    for colours in schemes:
        pairs = [(name, ground) for name in ("ink", "soft", "good", "warn", "bad") for ground in ("ground", "wash")]
        pairs += [("on", f"v{number}") for number in range(1, 7)]
        for one, other in pairs:
            dark, light = sorted((_luminance(colours[one]), _luminance(colours[other])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (one, other)


def test_tables_have_heads_and_the_drawing_has_words():
    page = render_page(_report(), _spans(), made=NOW)
    assert all('scope="' in head for head in re.findall(r"<th\b[^>]*>", page))
    assert page.count("<thead>") + page.count('class="pcrs"') == page.count("<table")
    assert re.search(r'<svg [^>]*role="img" aria-labelledby="timeline">\s*<title id="timeline">\d+ enclaves over time', page)
    levels = [int(one) for one in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {(name, value) for name, value in attrs}


def _tags(page):
    parser = _Tags()
    parser.feed(page)
    return parser


def test_what_people_look_for_is_there():
    page = render_page(_report(), _spans(), made=NOW, source="the export of June")
    for text in (
        "FAIL",
        NEW.pcr0.hex(),
        OLD.pcr2.hex(),
        "until 2026-11-28 12:00 UTC",
        "the export of June",
        "a check that proved nothing",
        *(rule.title for rule in RULES.values() if rule.who),
    ):
        assert text.replace("'", "&#39;") in page, text


@pytest.mark.parametrize(
    "text",
    [
        '<script src="http://x/">',
        '"><img src=http://x/ onerror=alert(1)>',
        "</style><link rel=stylesheet href=//x>",
        "javascript:alert(1)",
        "{{ 7*7 }}{% x %}",
    ],
)
def test_nothing_that_a_host_says_becomes_markup(text):
    plain, hostile = (_tags(render_page(_report(one), _spans(one), made=NOW, source=one)) for one in ("i-0123", text))
    assert hostile.tags == plain.tags
    assert not hostile.tags & {"script", "img", "link", "iframe", "object", "form", "a", "base"}
    assert not any(name.startswith("on") or name in ("src", "href", "action") for name, _ in hostile.attributes)


@pytest.mark.parametrize("change", [lambda one: one.pop("comparisons"), lambda one: one.update(verdict="MAYBE"), lambda one: one["comparisons"][0].pop("evidence"), lambda one: one.update(images=[1]),
    lambda one: one["comparisons"][0].update(outcome="x"), lambda one: one.update(time=3)])  # fmt: skip
def test_another_json_is_refused(change):
    report = _report()
    change(report)
    with pytest.raises(UsageError) as caught:
        render_page(report, made=NOW)
    assert caught.value.code == "usage/bad-report"


def test_a_template_in_a_hosts_words_is_text():
    assert render_page(_report("{{ 7*7 }}"), made=NOW).count("{{ 7*7 }}") > 10


def test_the_timeline_is_to_scale_and_a_single_document_is_seen():
    spans = [
        Span("b", NOW, NOW + timedelta(days=8), "v1"),
        Span("a", NOW + timedelta(days=4), NOW + timedelta(days=4), "v2"),
        Span("a", NOW, NOW, None),
    ]
    drawing = draw(spans)
    assert drawing is not None
    bar, moment, mark = drawing.shapes
    assert [name for name, _ in drawing.rows] == ["a", "b"]
    assert (bar.number, moment.number, mark.number, dict(drawing.versions)) == (1, 2, None, {1: "v1", 2: "v2"})
    assert abs((moment.x - bar.x) / bar.width - 0.5) < 0.01
    assert moment.width >= 3
    assert 2 <= len(drawing.ticks) <= 10
    assert draw([]) is None
    many = draw([Span(f"row {number:03}", NOW, NOW, "v") for number in range(100)])
    assert many is not None
    assert (len(many.rows), many.left_out) == (60, 40)


@pytest.mark.parametrize(
    "length", [timedelta(0), timedelta(minutes=5), timedelta(hours=20), timedelta(days=3), timedelta(days=200), timedelta(days=9000)]
)
def test_the_axis_has_a_readable_number_of_dates_for_every_length(length):
    drawing = draw([Span("a", NOW, NOW + length, "v")])
    assert drawing is not None
    assert 1 <= len(drawing.ticks) <= 10


@pytest.fixture
def listener():
    """A server that a page might ask, and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_browser_draws_and_prints_it_without_a_request(listener, tmp_path):
    url, asked = listener
    hostile = f'"><script src="{url}/script"></script><img src="{url}/image"><link rel="stylesheet" href="{url}/style"><style>@import "{url}/import"'
    page = tmp_path / "report.html"
    page.write_text(render_page(_report(hostile), _spans(hostile), made=datetime.fromisoformat("2026-11-25T12:00:00+00:00")))

    def chromium(*arguments, shown=page):
        command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *arguments, shown.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    log = tmp_path / "net.json"
    dom = chromium("--dump-dom", f"--log-net-log={log}")
    assert "Attestation report" in dom
    own = re.compile(r"chrome|https?://[a-z0-9.-]+[.]google(apis)?[.]com/")  # what the browser asks by itself
    requested = {one for one in re.findall(r'"url":"([^"]+)"', log.read_text()) if not own.match(one)}
    assert requested == set()
    assert asked == []
    chromium("--window-size=1100,2400", f"--screenshot={tmp_path / 'shot.png'}")
    chromium("--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'report.pdf'}")
    assert asked == []
    asking = tmp_path / "asking.html"
    asking.write_text(f'<img src="{url}/image">')
    chromium("--dump-dom", shown=asking)
    assert asked == ["/image"], "a page that asks is heard"
    assert (tmp_path / "shot.png").read_bytes().startswith(b"\x89PNG")
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes())) >= 2
