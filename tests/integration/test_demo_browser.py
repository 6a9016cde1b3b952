"""The demo's page in a real browser: offline, without an error, with a protein to see."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium")

FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-first-run", "--enable-logging=stderr", "--force-device-scale-factor=1"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
]

# Uses the controls as a reader would, ends on the reference, and leaves a report in the page.
PROBE = """
<script>
const at = (name) => document.getElementById("protein-" + name);
const use = (name, value, event) => {
  at(name).value = value;
  at(name).dispatchEvent(new Event(event));
};
const report = { atoms: [document.documentElement.dataset.atoms], status: [] };
const note = () => report.status.push(at("status").textContent);
note();
use("step", 0, "input");
note();
at("play").click();
report.playing = at("play").textContent;
at("play").click();
for (const style of ["trace", "stick", "cartoon"]) use("style", style, "change");
const options = at("structure").options;
for (let i = 1; i < options.length; i++) {
  use("structure", i, "change");
  report.atoms.push(document.documentElement.dataset.atoms);
}
note();
report.player = at("player").hidden;
report.download = at("download").getAttribute("href");
report.wide = document.documentElement.scrollWidth > innerWidth;
const box = at("stage").getBoundingClientRect();
report.box = [box.left, box.top, box.right, box.bottom].map(Math.round);
document.body.dataset.report = JSON.stringify(report);
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from rectiflow_cli import demo
    from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork

    folder = tmp_path_factory.mktemp("browser")
    config = ReQFlowConfig(
        c_s=32,
        c_z=16,
        c_pos_emb=16,
        c_timestep_emb=16,
        feat_dim=8,
        c_hidden=8,
        heads=2,
        qk_points=2,
        v_points=4,
        tfmr_heads=2,
        tfmr_layers=1,
        blocks=2,
    )
    ReQFlowNetwork(config).save_pretrained(folder / "weights")
    words = ["--weights", str(folder / "weights"), "--num", "2", "--steps", "4", "--device", "cpu"]
    words += ["--domain", "protein"]
    assert demo.main(["-o", str(folder / "page"), *words]) == 0
    index = folder / "page" / "index.html"
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    return index


def visit(page, tmp_path, *flags: str, size: str):
    """Open the page; return its root element, the probe's report, messages and a picture."""
    from matplotlib.image import imread

    shot = tmp_path / "shot.png"
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags]
    command += [f"--window-size={size}", f"--screenshot={shot}", "--virtual-time-budget=1000"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=240
    )
    root = re.search(r"<html[^>]*>", done.stdout)
    report = re.search(r'data-report="([^"]*)"', done.stdout)
    assert root, done.stderr
    assert report, done.stderr
    lines = [x for x in done.stderr.splitlines() if "CONSOLE" in x and "GL Driver Message" not in x]
    return root[0], json.loads(html.unescape(report[1])), lines, imread(shot)[..., :3]


@pytest.mark.parametrize(
    ("size", "flags"),
    [("960,700", []), ("500,700", ["--blink-settings=preferredColorScheme=0"])],
    ids=["wide and light", "narrow and dark"],
)
def test_page_works_and_shows_a_protein(page, tmp_path, size, flags):
    root, report, messages, picture = visit(page, tmp_path, *flags, size=size)
    assert messages == []
    assert 'data-viewer="ready"' in root
    assert report["atoms"] == ["240", "400", "224"]  # four of each residue
    assert report["status"] == [
        "Sample 1, 60 residues: finished",
        "Sample 1, 60 residues: noise",
        "Reference: protein G, domain B1 (PDB 1PGA), 56 residues",
    ]
    assert "Pause" in report["playing"]
    assert report["player"] is True  # a reference has no way from noise
    assert report["download"] == "structures/reference.pdb"
    assert report["wide"] is False  # nothing runs out of the window

    left, top, right, bottom = report["box"]
    view = picture[top + 4 : bottom - 40, left + 4 : right - 4]  # without border and colour scale
    paper = view[2, 2]
    assert (paper.mean() < 0.3) == bool(flags)
    drawn = view[np.abs(view - paper).max(-1) > 0.1]
    assert 0.02 < len(drawn) / view[..., 0].size < 0.6
    bluish, reddish = drawn[:, 2] - drawn[:, 0], drawn[:, 0] - drawn[:, 2]
    assert (bluish > 0.2).mean() > 0.05  # from N
    assert (reddish > 0.2).mean() > 0.05  # to C
