"use strict";
(() => {
  const ATOMS = [["N", "N"], ["CA", "C"], ["C", "C"], ["O", "O"]];
  const GRADIENT = [[74, 122, 230], [38, 176, 165], [240, 182, 64], [226, 92, 108]];
  const LETTER = { C: "c", H: "h", E: "s" };
  const PEPTIDE_BREAK = 2.0; // angstrom between C and N
  const FRAME_MS = 60;
  const MARGIN = 1.15; // zoom beyond the fit of 3Dmol, which leaves room for side chains

  const root = document.documentElement;
  const control = (name) => document.getElementById("protein-" + name);
  const stage = control("stage");
  const structures = JSON.parse(control("data").textContent);

  function unpack(structure) {
    const bytes = Uint8Array.from(atob(structure.coords), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const coords = new Float32Array(bytes.length / 2);
    for (let i = 0; i < coords.length; i++) {
      coords[i] = view.getInt16(2 * i, true) * structure.scale;
    }
    return { ...structure, coords };
  }

  function colour(part) {
    const place = Math.min(Math.max(part, 0), 1) * (GRADIENT.length - 1);
    const low = Math.min(Math.floor(place), GRADIENT.length - 2);
    const mixed = GRADIENT[low].map((c, i) => c + (place - low) * (GRADIENT[low + 1][i] - c));
    return mixed.reduce((code, c) => 256 * code + Math.round(c), 0);
  }

  function distance(coords, a, b) {
    return Math.hypot(...[0, 1, 2].map((k) => coords[3 * a + k] - coords[3 * b + k]));
  }

  // Atoms of a chain, to be placed, with the bonds that its last frame has.
  function atomsOf(structure) {
    const n = structure.numbers.length;
    const last = structure.coords.subarray((structure.frames - 1) * n * ATOMS.length * 3);
    const atoms = structure.numbers.flatMap((number, residue) => ATOMS.map(([atom, elem], k) => ({
      atom, elem, serial: residue * ATOMS.length + k, resn: "ALA", resi: number, chain: "A",
      hetflag: false, x: 0, y: 0, z: 0, ss: "c", bonds: [], bondOrder: [],
      properties: { part: residue / Math.max(n - 1, 1), residue },
    })));
    const bond = (a, b, order) => [[a, b], [b, a]].forEach(([from, to]) => {
      atoms[from].bonds.push(to);
      atoms[from].bondOrder.push(order);
    });
    for (let N = 0; N < atoms.length; N += ATOMS.length) {
      const [CA, C, O, next] = [N + 1, N + 2, N + 3, N + ATOMS.length];
      bond(N, CA, 1);
      bond(CA, C, 1);
      bond(C, O, 2);
      if (next < atoms.length && distance(last, C, next) < PEPTIDE_BREAK) bond(C, next, 1);
    }
    return atoms;
  }

  function name(button, symbol, text) {
    const sign = document.createElement("span");
    sign.setAttribute("aria-hidden", "true");
    sign.textContent = symbol;
    button.replaceChildren(sign, " " + text);
  }

  function styles() {
    const colorfunc = (atom) => colour(atom.properties.part);
    return {
      cartoon: { cartoon: { colorfunc, style: "oval", arrows: true, thickness: 0.35 } },
      trace: { cartoon: { colorfunc, style: "trace", thickness: 0.45 } },
      stick: { stick: { colorfunc, radius: 0.14 }, sphere: { colorfunc, radius: 0.3 } },
    };
  }

  function start() {
    const viewer = $3Dmol.createViewer(stage, { antialias: true, cartoonQuality: 8 });
    const style = styles();
    const dark = matchMedia("(prefers-color-scheme: dark)");
    let shown, model, timer;

    const paint = () => {
      viewer.setBackgroundColor(dark.matches ? 0x1a1f25 : 0xffffff, 0);
      viewer.render();
    };

    function showFrame(frame) {
      const atoms = model.selectedAtoms({});
      const offset = frame * atoms.length * 3;
      atoms.forEach((atom, i) => {
        [atom.x, atom.y, atom.z] = shown.coords.subarray(offset + 3 * i, offset + 3 * i + 3);
        atom.ss = LETTER[shown.ss[frame][atom.properties.residue]];
      });
      model.setStyle({}, style[control("style").value]);
      viewer.render();
      const last = shown.frames - 1;
      const done = frame === last ? "finished" : frame === 0 ? "noise" : `step ${frame} of ${last}`;
      control("step").value = frame;
      control("step").setAttribute("aria-valuetext", done);
      control("status").textContent = last ? `${shown.label}: ${done}` : shown.label;
    }

    function stop() {
      clearInterval(timer);
      timer = undefined;
      control("status").setAttribute("aria-live", "polite");
      name(control("play"), "\u25b6", "Play from noise");
    }

    function play() {
      const last = shown.frames - 1;
      let frame = Number(control("step").value);
      if (frame >= last) frame = 0;
      name(control("play"), "\u275a\u275a", "Pause");
      control("status").setAttribute("aria-live", "off"); // not each frame aloud
      showFrame(frame);
      timer = setInterval(() => {
        frame += 1;
        if (frame >= last) stop();
        showFrame(Math.min(frame, last));
      }, FRAME_MS);
    }

    function fit() {
      viewer.zoomTo();
      viewer.zoom(MARGIN);
      viewer.render();
    }

    function choose(index) {
      stop();
      shown = unpack(structures[index]);
      viewer.removeAllModels();
      model = viewer.addModel();
      model.addAtoms(atomsOf(shown));
      const last = shown.frames - 1;
      control("step").max = last;
      control("player").hidden = last === 0;
      control("download").href = shown.file;
      showFrame(last);
      fit();
      root.dataset.atoms = model.selectedAtoms({}).length;
    }

    control("structure").addEventListener("change", (e) => choose(Number(e.target.value)));
    control("style").addEventListener("change", () => showFrame(Number(control("step").value)));
    control("step").addEventListener("input", (e) => { stop(); showFrame(Number(e.target.value)); });
    control("play").addEventListener("click", () => (timer === undefined ? play() : stop()));
    control("spin").addEventListener("change", (e) => viewer.spin(e.target.checked ? "y" : false, 0.6));
    control("reset").addEventListener("click", fit);
    dark.addEventListener("change", paint);

    const TURNS = { ArrowLeft: ["y", -10], ArrowRight: ["y", 10], ArrowUp: ["x", -10], ArrowDown: ["x", 10] };
    stage.addEventListener("keydown", (e) => {
      if (e.key in TURNS) {
        const [axis, angle] = TURNS[e.key];
        viewer.rotate(angle, axis);
      } else if (e.key === "+" || e.key === "=") viewer.zoom(1.15);
      else if (e.key === "-") viewer.zoom(1 / 1.15);
      else return;
      e.preventDefault();
      viewer.render();
    });
    // The wheel scrolls the page until the view has been clicked.
    stage.addEventListener("pointerdown", () => stage.focus({ preventScroll: true }), true);
    stage.addEventListener("wheel", (e) => {
      if (document.activeElement !== stage) e.stopPropagation();
    }, true);

    paint();
    choose(Number(control("structure").value));
    root.dataset.viewer = "ready";
  }

  try {
    start();
  } catch (error) {
    root.dataset.viewer = "unavailable";
    stage.textContent = "The 3D view needs WebGL, which this browser does not offer. The structures are in the folder beside this page.";
    control("controls").hidden = true;
    console.warn(error);
  }
})();
