"""The demo's page: complete, self-contained, well formed, and true to what was sampled."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
import shlex
from contextlib import redirect_stdout

import numpy as np
import pytest
from rectiflow_cli import demo, main
from rectiflow_cli.demo import page
from rectiflow_cli.demo.card import Card
from rectiflow_cli.domains import DOMAINS
from rectiflow_cli.errors import UsageError
from rectiflow_protein.io import StructureError, read_structure, write_structure
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork

STEPS = 3
VOID = {"meta", "link", "img", "input", "source", "br", "hr"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
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
    ReQFlowNetwork(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """The folder of one run and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "page"
    printed = io.StringIO()
    argv = ["-o", str(out), "--weights", str(weights), "--num", "2", "--steps", str(STEPS)]
    argv += ["--domain", "protein"]
    with redirect_stdout(printed):
        assert demo.main([*argv, "--seed", "5", "--device", "cpu", "--json"]) == 0
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def document(made):
    parser = Elements()
    parser.feed((made[0] / "index.html").read_text(encoding="utf-8"))
    parser.close()
    return parser


class Elements(html.parser.HTMLParser):
    """Every element with its attributes; fails where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag not in VOID
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        name = self.elements[-1][1].get("id") if self.elements else None
        if name and self.open and self.open[-1] == self.elements[-1][0]:
            self.texts[name] = self.texts.get(name, "") + data

    def values(self, attribute: str) -> list[str]:
        return [a[attribute] for _, a in self.elements if a.get(attribute) is not None]


def test_every_domain_has_a_card():
    for domain in DOMAINS:
        assert domain.has_card()


def test_html_is_well_formed(document):
    assert document.open == []
    ids = document.values("id")
    assert len(ids) == len(set(ids))
    for attribute in ("for", "aria-labelledby"):
        assert set(document.values(attribute)) <= set(ids)
    for tag, attributes in document.elements:
        assert tag != "img" or attributes["alt"]
    assert document.elements[0] == ("html", {"lang": "en"})


def test_page_needs_only_what_lies_beside_it(made, document):
    out, _ = made
    links = [link for name in ("href", "src", "srcset") for link in document.values(name)]
    local = [x for x in links if x and not x.startswith(("#", "data:"))]
    assert len(local) > 10
    for link in local:
        assert (out / link).is_file(), link
    text = (out / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|[\"'(]//", text)
    [policy] = [a["content"] for t, a in document.elements if t == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_vendored_viewer_names_no_service():
    script = page.asset("3Dmol-min.js")
    # What is left credits shader code, in comments.
    assert set(re.findall(r"https?://([\w.-]+)", script)) == {"github.com"}
    assert "sourceMappingURL" not in script
    licence = page.asset("3Dmol-min.js.LICENSE.txt")
    assert "3Dmol.js 2.5.5" in licence
    assert "Redistribution and use in source and binary forms" in licence
    assert "University of Pittsburgh" in licence


def test_files_are_those_of_the_result(made):
    out, printed = made
    result = json.loads((out / "result.json").read_text())
    assert json.loads(printed) == result
    assert shlex.split(result["command"])[:2] == ["rectiflow", "demo"]
    assert result["versions"]["rectiflow-protein"]
    protein = result["domains"]["protein"]
    assert protein["settings"]["seed"] == 5
    assert protein["settings"]["steps"] == STEPS
    assert len(protein["settings"]["weights_hash"]) > 8
    *samples, reference = protein["structures"]
    assert [s["length"] for s in samples] == [60, 100]
    assert reference["file"] == "structures/reference.pdb"
    assert "seconds" not in reference
    assert reference["ca_ca_strict"] == 1
    assert reference["helix"] > 0.2
    assert reference["strand"] > 0.35
    for structure in protein["structures"]:
        assert len(read_structure(out / structure["file"])) == structure["length"]
    assert {p.name for p in (out / "structures").iterdir()} == {
        s["file"].removeprefix("structures/") for s in protein["structures"]
    }
    for path in (out / "pictures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    assert not list(out.rglob("*.partial"))


def test_structures_are_what_the_sample_command_makes(made, document, tmp_path):
    [command] = [c for c in re.findall(r"<code>(.*?)</code>", (made[0] / "index.html").read_text())
                 if "protein sample" in c]  # fmt: skip
    words = shlex.split(command)
    assert words[0] == "rectiflow"
    assert main.main([*words[1:-1], str(tmp_path), "--device", "cpu"]) == 0
    mine = sorted((made[0] / "structures").glob("length_*.pdb"))
    assert len(mine) == 2
    for path in mine:
        again = read_structure(tmp_path / path.name)
        np.testing.assert_allclose(read_structure(path).coords, again.coords, atol=2e-3)


def test_viewer_gets_the_chain_of_the_file_after_a_way_from_noise(made, document):
    shown = json.loads(document.texts["protein-data"])
    assert len(shown) == 3
    for data in shown:
        structure = read_structure(made[0] / data["file"])
        n = len(structure)
        packed = np.frombuffer(base64.b64decode(data["coords"]), "<i2")
        frames = packed.reshape(data["frames"], n, 4, 3) * data["scale"]
        centred = structure.coords - structure.coords[:, 1].mean(0)
        np.testing.assert_allclose(frames[-1], centred, atol=0.01)
        assert data["numbers"] == structure.residue_index.tolist()
        assert [len(codes) for codes in data["ss"]] == [n] * data["frames"]
        assert set("".join(data["ss"])) <= set("CHE")
    *samples, reference = shown
    assert reference["frames"] == 1
    for data in samples:
        assert data["frames"] == STEPS + 1  # the noise, two moves, the last prediction
    options = [a["value"] for tag, a in document.elements if tag == "option"]
    assert options[:3] == ["0", "1", "2"]


def test_table_shows_the_numbers(made):
    text = (made[0] / "index.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", text)
    assert len(rows) == 3
    structures = json.loads((made[0] / "result.json").read_text())["domains"]["protein"]
    for (name, cells), structure in zip(rows, structures["structures"], strict=True):
        values = re.findall(r"<td>(.*?)</td>", cells)
        assert structure["label"] in name
        assert values[0] == f"{structure['ca_ca_strict']:.1%}"
        assert values[5] == f"{structure['radius_of_gyration']:.1f}"
    assert values[-1] == "–"  # a reference takes no time


def test_input_is_the_reference_with_its_breaks(weights, tmp_path):
    from rectiflow_protein.examples import PROTEIN_G

    gap = read_structure(PROTEIN_G)[[*range(18), *range(22, 56)]]
    write_structure(tmp_path / "a<b.pdb", gap)
    argv = ["-o", str(tmp_path / "out"), "--weights", str(weights), "--num", "1", "--steps", "1"]
    argv += ["--domain", "protein"]
    assert demo.main([*argv, "--input", str(tmp_path / "a<b.pdb")]) == 0
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Reference: a&lt;b, 52 residues" in text
    assert "a<b" not in text
    assert "has a chain break, counted" in text
    [sample, reference] = json.loads((tmp_path / "out" / "result.json").read_text())["domains"][
        "protein"
    ]["structures"]
    assert sample["length"] == 60
    assert reference["ca_ca_strict"] == pytest.approx(50 / 51, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--num", "0"], ValueError, "--num: expected an integer of at least 1, got '0'"),
        (["--steps", "-3"], ValueError, "--steps: expected an integer of at least 1, got '-3'"),
        (["--device", "cuda:99"], ValueError, "cuda:99"),
        (["--domain", "protein", "--weights", "smal"], FileNotFoundError, "smal"),
        (["--weights", "smal"], UsageError, "--weights smal is a checkpoint of one domain, got "),
        (["--domain", "rocks"], UsageError, "unknown domain 'rocks'; known: audio, imaging"),
        (["--input", "a.odd"], UsageError, "--input a.odd is of no domain, got suffix '.odd'"),
        (["--input", "nowhere.pdb"], StructureError, "nowhere.pdb"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(words, error, message, tmp_path):
    with pytest.raises(error, match=re.escape(message)):
        demo.main(["-o", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_without_a_domain_it_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr(type(DOMAINS[0]), "folder", lambda self: None)
    with pytest.raises(UsageError, match=re.escape("pip install 'rectiflow-cli[protein]'")):
        demo.main(["-o", str(tmp_path / "out")])


def test_cards_of_several_domains_make_one_page(tmp_path):
    cards = {
        "audio": Card(
            "Sounds & noise", "<p>a</p>", {"sounds/a.wav": b"RIFF"}, {"db": float("nan")}
        ),
        "shape": Card("Shapes", "<p>b</p>"),
    }
    settings = {"command": "rectiflow demo -o '<x>'", "versions": {"torch": "2"}}
    result = page.write_page(tmp_path, cards, settings)
    assert (tmp_path / "sounds" / "a.wav").read_bytes() == b"RIFF"
    assert result["domains"] == {"audio": {"db": None}, "shape": {}}
    assert json.loads((tmp_path / "result.json").read_text()) == result
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert '<h2 id="audio-title">Sounds &amp; noise</h2>\n<p>a</p>' in text
    assert '<a href="#shape">Shapes</a>' in text
    assert "&lt;x&gt;" in text
    parser = Elements()
    parser.feed(text)
    assert parser.open == []


def test_data_block_cannot_end_its_element():
    block = page.data_block("x", ["</script><script>"])
    assert block.count("<") == 2
    assert json.loads(block.partition(">")[2].rpartition("<")[0]) == ["</script><script>"]


def test_picture_is_drawn_for_light_and_for_dark():
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    def draw() -> Figure:
        figure = Figure(figsize=(1, 1))
        figure.add_subplot().plot([0, 1])
        return figure

    before = dict(matplotlib.rcParams)
    figure, files = page.picture("curve", draw, alt='a "line"')
    assert dict(matplotlib.rcParams) == before
    assert list(files) == ["pictures/curve.png", "pictures/curve_dark.png"]
    corners = [imread(io.BytesIO(content))[0, 0, :3].mean() for content in files.values()]
    assert corners[0] == 1
    assert corners[1] < 0.2
    assert 'alt="a &quot;line&quot;"' in figure
