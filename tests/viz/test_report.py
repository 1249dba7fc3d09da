"""The report: self-contained, escaped, honest, and rendered by a real browser without complaint."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from stand_in import StandIn, backtest_of

from scidyn import viz
from scidyn.errors import ArtifactError
from scidyn.viz.report.markup import Markup, tag
from scidyn.viz.report.sentences import noise_sentence, number, verdict

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
VOID = {"meta", "br", "hr", "col", "path", "use", "rect"}


class Reader(HTMLParser):
    """Collects text, ids and attributes, and checks that tags are balanced."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.text, self.tags = [], [], [], [], []

    def handle_starttag(self, name, attrs):
        self.tags.append((name, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href", "action")]
        if name not in ("meta", "br", "hr", "col"):
            self.open.append(name)

    def handle_startendtag(self, name, attrs):
        self.tags.append((name, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href")]

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def html(model, record, trial, tmp_path_factory):
    return viz.report(model, record, tmp_path_factory.mktemp("report") / "report.html", backtest=trial)


@pytest.fixture(scope="module")
def read(html):
    reader = Reader()
    reader.feed(html.read_text(encoding="utf-8"))
    return reader


def test_is_one_file_without_outside_links(html, read):
    text = html.read_text(encoding="utf-8")
    assert not re.search(r"https?:", re.sub(r"<pre>@.*?</pre>", "", text, flags=re.DOTALL))
    assert read.links
    assert all(link.startswith("#") for link in read.links)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "<script" not in text


def test_is_well_formed_with_unique_ids(read):
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))
    targets = {link[1:] for link in read.links}
    assert targets <= set(read.ids)


def test_every_figure_is_described(read):
    figures = [a for name, a in read.tags if name == "svg"]
    assert len(figures) == 6
    for attributes in figures:
        assert attributes["role"] == "img"
        assert attributes["aria-labelledby"] in read.ids
    assert sum(name == "figcaption" for name, _ in read.tags) == 6


def test_says_what_matters(read):
    text = re.sub(r"\s+", " ", " ".join(read.text))
    for part in (
        "Measurement noise is taken as log-normal",
        "This was chosen because every observed value is positive",
        "persistence",
        "linear autoregression",
        "1/(year * thousand pelts)",
        "0.441 to 0.639",
        "90 % interval",
        "sha256:0011",
        "2026-11-25",
        "86 % hare, 71 % lynx",
        "The band that should hold 90 % of the held-out values held 86 % of hare and 71 % of lynx.",
        "42 observations",
        "Elton & Nicholson 1942",
        "@software{scidyn",
    ):
        assert part in text, part


def test_names_from_data_are_escaped(record, tmp_path):
    bad = "<script>alert('x')</script>&"
    units = {"time": "year", "hare": bad, "lynx": "thousand pelts"}
    nasty = record.copy()
    nasty.attrs = {**record.attrs, "title": bad, "source": '"><img src=x onerror=alert(1)>'}
    nasty["hare"].attrs["units"] = bad
    model = StandIn(nasty, units)
    path = viz.report(model, nasty, tmp_path / "r.html", backtest=backtest_of(model, nasty))
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text


def test_refuses_to_overwrite(model, record, html):
    before = html.read_bytes()
    with pytest.raises(ArtifactError, match="exists; nothing was changed"):
        viz.report(model, record, html)
    assert html.read_bytes() == before


def test_without_a_backtest_it_says_so(model, record, tmp_path):
    text = viz.report(model, record, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "The forecast was not judged" in text
    assert 'id="forecast"' not in text


def test_a_winning_baseline_is_named_and_marked(trial, model, record, tmp_path):
    worse = backtest_of(model, record)
    worse.errors["rmse"].loc[{"model": "persistence", "variable": "hare"}] = 0.5
    said = verdict(worse.errors)
    assert "A naive forecast predicts hare better than the model (RMSE 3.61 against 0.5): persistence." in said
    assert "the model forecasts lynx better" in said
    text = viz.report(model, record, tmp_path / "r.html", backtest=worse).read_text(encoding="utf-8")
    row = re.search(r"<tr><th scope=\"row\">persistence</th>(.*?)</tr>", text).group(1)
    assert re.findall(r'<td class="number best">.*?</td>', row) == [
        '<td class="number best"><span title="smallest error">0.5</span></td>'
    ]


def test_noise_reasons(model, record):
    class Asked(StandIn):
        noise = "lognormal"

    assert noise_sentence(Asked(record), record).endswith("This was asked for.")

    class Additive(StandIn):
        noise_model_ = "normal"

    zero = record.copy(deep=True)
    zero["hare"][3] = 0.0
    assert "because not every observed value is positive" in noise_sentence(Additive(zero), zero)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0272, "0.0272"), (float("nan"), "–"), (-1.5, "−1.5"), (12345.0, "12345"), (2e-9, "2e−09"), (0.5, "0.5")],
)
def test_numbers_as_people_write_them(value, text):
    assert number(value) == text


def test_markup_escapes_all_but_markup():
    assert tag("p", "<b>", Markup("<i>x</i>"), title='"') == '<p title="&quot;">&lt;b&gt;<i>x</i></p>'


MEASURE = """<script>
window.addEventListener("load", () => {
  const shown = [...document.querySelectorAll("figure svg")].map((svg) => {
    const box = svg.getBoundingClientRect();
    const marks = [...svg.querySelectorAll("path, use")].filter((m) => m.getBoundingClientRect().width > 0);
    return [svg.closest("figure").id, Math.round(box.width), Math.round(box.height), marks.length].join(" ");
  });
  const note = document.createElement("pre");
  note.id = "measured";
  note.textContent = shown.join(";") + "|" + (document.documentElement.scrollWidth - innerWidth)
    + "|" + getComputedStyle(document.querySelector("#figure-fit text")).fontFamily;
  document.body.append(note);
});
</script>"""


def chromium(page, folder, *options):
    return subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}", *options,
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip


def complaints(log):
    return [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_renders_every_figure(html, tmp_path, width):
    page = tmp_path / "measured.html"
    page.write_text(html.read_text(encoding="utf-8").replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    done = chromium(page, tmp_path, f"--window-size={width},900")
    assert complaints(done.stderr) == []
    measured, overflow, font = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL).group(1).split("|")
    figures = [line.split() for line in measured.split(";")]
    names = [name for name, *_ in figures]
    assert names == [f"figure-{k}" for k in ("fit", "forecast", "profiles", "plane", "residuals", "convergence")]
    for _, across, high, marks in figures:
        assert int(across) >= 300
        assert int(high) >= 120
        assert int(marks) >= 20
    assert int(overflow) <= 0, "the page itself scrolls sideways"
    assert "system-ui" in font


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_browser_check_can_fail(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><script>nowhere.at.all()</script>", encoding="utf-8")
    assert complaints(chromium(page, tmp_path).stderr)
